"""Axolotl runs without paying its import each time: one process imports it, every run is a fork of that process.

``python -m tests.sft.axolotl_pool`` reads one JSON line a job, {"configs": [...], "processes": n, "log": file}, and
answers with {"codes": [...]}. A fork is a real process with real gloo ranks; only the import is shared.
"""

import json
import os
import socket
import sys
import traceback


def rank(job: dict, number: int, port: int) -> None:
    """Body of one forked rank; never returns to the loop of the parent."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if job["processes"] > 1:
        ranks = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": job["processes"], "LOCAL_WORLD_SIZE": 2}
        os.environ.update({k: str(v) for k, v in ranks.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    os.environ.update(job.get("env") or {})
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets

    from sft import worker

    sys.argv = ["worker", job["config"]]
    try:
        if os.environ.get("SHOW_FIELDS"):
            from axolotl.utils.schemas.config import AxolotlInputConfig

            os.write(1, (json.dumps(sorted(AxolotlInputConfig.model_fields)) + "\n").encode())
        elif os.environ.get("ONLY_PREPARE"):
            load_datasets(cfg=load_cfg(job["config"]))
        else:
            worker.main()
    except BaseException as e:
        traceback.print_exc()
        os.write(2, f"duetto-error: {e}\n".encode())
        os._exit(1)
    os._exit(0)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the imports print
    import axolotl.cli.config
    import axolotl.common.datasets
    import axolotl.core.builders
    import axolotl.train  # noqa: F401

    import sft.compat
    import sft.plugin  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        children = []
        for number in range(job["processes"]):
            child = os.fork()
            if child == 0:
                rank(job, number, port)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]
        answers.write(json.dumps({"codes": codes}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
