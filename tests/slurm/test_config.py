"""Cluster files: typed, found by host name, sizes filled in."""

import pytest

from duetto.errors import UserError
from slurm import config
from slurm.config import ClusterConfig, cluster_files, detect, find, mebibytes, minutes


def cluster(**changes):
    base = {"name": "x", "nodes": 8, "gpus_per_node": 8, "cpus_per_node": 128, "memory_per_node": "1000G"}
    return ClusterConfig.model_validate(base | changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", 30), ("10:30", 10.5), ("24:00:00", 1440), ("2-0", 2880), ("1-12:30", 2190), ("1-00:00:30", 1440.5)],
)
def test_times_of_slurm(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "24h", "1:2:3:4", "x"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="no SLURM time"):
        minutes(text)


def test_sizes_of_slurm():
    assert [mebibytes(x) for x in ("0", "2048K", "480", "480M", "480G", "1T")] == [0, 2, 480, 480, 491520, 1048576]
    with pytest.raises(ValueError, match="no SLURM memory size"):
        mebibytes("480GB")


def test_the_ready_files_are_valid_and_their_hosts_do_not_overlap():
    found = {path.stem: find(str(path)) for path, _ in cluster_files()}
    assert {"a100-8x8", "leonardo", "one-node", "mini"} <= set(found)
    assert all(c.name == stem for stem, c in found.items())
    for stem, c in found.items():
        for host in c.hosts:
            assert detect(host.replace("*", "07").replace("[1-8]", "3")).stem == stem
    flagship = {"a100-8x8": (8, 8), "leonardo": (16, 4)}
    for stem, (nodes, gpus) in flagship.items():
        size = found[stem].size("pretrain")
        assert (size.nodes, size.gpus_per_node) == (nodes, gpus) and nodes * gpus == 64


def test_a_host_finds_its_cluster():
    assert detect("login07.leonardo.local").stem == "leonardo"
    assert detect("laptop") is None


def test_no_cluster_is_named_and_none_is_detected(monkeypatch):
    monkeypatch.setattr(config.socket, "gethostname", lambda: "laptop")
    monkeypatch.setattr(config.socket, "getfqdn", lambda: "laptop.example.org")
    with pytest.raises(UserError, match="no file in configs/clusters lists the host laptop.*--executor local"):
        find()


def test_a_misspelt_cluster_names_the_nearest():
    with pytest.raises(UserError, match="no cluster 'leonrado'; did you mean 'leonardo'"):
        find("leonrado")


def test_an_unknown_key_names_file_line_and_nearest_key(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nnodes: 1\ngpus_per_node: 8\ncpus_per_node: 64\nmemory_per_nod: 100G\n")
    with pytest.raises(UserError, match=r"own.yaml:5: unknown key 'cluster.memory_per_nod'; did you mean 'memory_per_node'"):  # fmt: skip
        find(str(path))


def test_what_is_left_out_follows_from_the_share_of_gpus():
    c = cluster()
    assert c.size("pretrain").nodes == 8 and c.size("pretrain").gpus_per_node == 8
    assert c.size("pretrain").memory == "0", "a whole node"
    part = c.size("eval")
    assert (part.nodes, part.gpus_per_node, part.cpus, part.memory) == (1, 1, 16, "128000M")
    assert c.size("card").gpus_per_node == 0 and c.size("tokenize").cpus == 128


def test_a_job_overrides_what_it_names():
    c = cluster(partition="gpu", jobs={"tokenize": {"partition": "cpu", "cpus": 32, "time": "1-00"}})
    size = c.size("tokenize")
    assert (size.partition, size.cpus, size.time, size.memory) == ("cpu", 32, "1-00", "256000M")
    assert c.size("sft").partition == "gpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": {"pretrain": {"nodes": 9}}}, "jobs.pretrain.nodes is 9, but nodes says 8"),
        ({"jobs": {"sft": {"gpus_per_node": 16}}}, "a node has 8"),
        ({"jobs": {"eval": {"cpus": 256}}}, "a node has 128"),
        ({"jobs": {"sft": {"links": 2}}}, "only pretrain is a chain"),
        ({"time": "00:04:00", "jobs": {"pretrain": {}}}, "not longer than warning_seconds"),
        ({"time": "4h"}, "no SLURM time"),
        ({"memory_per_node": "lots"}, "no SLURM memory size"),
    ],
)
def test_sizes_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        cluster(**changes)
