# What the job scripts share: node check, one task a node, the warning, the way back to the queue.
# Sourced by slurm/*.sh after the cluster lines; not run by itself. DUETTO_RUN is the run folder.

say() { echo "[$(date +%T)] $*"; }

# Variables of a launch over all nodes of the allocation.
across_nodes() {
  local first
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  # Where node names are SLURM's own and no host names, SLURM knows the address.
  getent hosts "$first" >/dev/null || first=$(scontrol -o show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
  export DUETTO_HEAD=$first
  # Two jobs on one node must not meet: the port follows from the job id.
  export DUETTO_PORT=$((20000 + SLURM_JOB_ID % 20000))
  # srun ignores --cpus-per-task of the job since SLURM 22.05.
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
  # Bind the tasks to their cores where the cluster can.
  if scontrol show config | grep -q '^TaskPlugin .*\(affinity\|cgroup\)'; then export SLURM_CPU_BIND=cores; fi
  say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), nodes $SLURM_JOB_NODELIST," \
    "${SLURM_GPUS_ON_NODE:-0} GPUs a node, rendezvous $DUETTO_HEAD:$DUETTO_PORT"
}

# Look at every node, in seconds. Bad ones are excluded and the job returns to the queue.
check_nodes() {
  [ "${DUETTO_HEALTH:-1}" = 1 ] || { say "node check: switched off"; return 0; }
  local rc=0
  python -m slurm.health || rc=$?
  case $rc in
    0) ;;
    4) back_to_queue "$(python -m slurm.health --bad)" ;;
    *) say "node check: could not run (exit $rc)"; exit "$rc" ;;
  esac
}

# back_to_queue [NODES]: the same job id starts again, without NODES.
back_to_queue() {
  trap '' TERM USR1  # requeueing ends this very script
  local most=${DUETTO_MAX_RESTARTS:-100}
  if [ "${DUETTO_REQUEUE:-1}" != 1 ] || [ "${SLURM_RESTART_COUNT:-0}" -ge "$most" ]; then
    say "not requeued (requeue is off for this cluster, or $most restarts are used up); duetto submit continues"
    exit 3
  fi
  say "back to the queue as job $SLURM_JOB_ID${1:+, without $1}"
  scontrol requeue "$SLURM_JOB_ID" || exit 3
  # Only a job that waits can be told which nodes to avoid, and this script has a few seconds left to say it.
  if [ -n "${1:-}" ]; then
    for _ in $(seq 50); do
      scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=$1" 2>/dev/null && break
      sleep 0.1
    done
  fi
  sleep 60
  exit 3
}

seconds_left() { echo $(($(date -d "$(squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s) - $(date +%s))); }

# supervised COMMAND...: pass the warning on, and decide from the exit code what becomes of the job.
supervised() {
  local rc=0 warned="" verb began
  began=$(date +%s)
  "$@" &
  verb=$!
  trap 'warned=$(date +%s.%N); say "warned: saving a checkpoint"; kill -USR1 $verb 2>/dev/null' USR1
  trap 'kill -TERM $verb 2>/dev/null' TERM
  while :; do
    wait "$verb" && rc=0 || rc=$?
    kill -0 "$verb" 2>/dev/null || break  # a trap interrupts wait while the command goes on
  done
  [ -z "$warned" ] || report_checkpoint "$warned"
  case $rc in
    0) say "done" ; return 0 ;;
    2) say "the input is wrong (see above); nothing to retry"; exit 2 ;;
    3 | 138) ;;                         # saved and stopped, or warned before there was anything to save
    *)
      if [ -z "$warned" ]; then
        say "failed with $rc; looking at the nodes"
        check_nodes
        # Good nodes: worth another try when this one got further than the one before.
        newer_checkpoint "$began" || { say "no new checkpoint since the start, so no retry"; exit "$rc"; }
      fi ;;
  esac
  # Near the limit the next job of the chain takes over; it is waiting already.
  if [ "${DUETTO_LINKS_LEFT:-0}" -gt 0 ] && [ "$(seconds_left)" -lt $((${DUETTO_WARNING:-300} + 90)) ]; then
    say "handed over to the next job of the chain"
    exit 0
  fi
  back_to_queue
}

newest_checkpoint() { ls -t "${DUETTO_RUN:-.}"/pretrain/checkpoints/*/COMMIT 2>/dev/null | head -n 1; }

newer_checkpoint() {
  local newest
  newest=$(newest_checkpoint)
  [ -n "$newest" ] && [ "$(stat -c %Y "$newest")" -ge "$1" ]
}

# How long the newest checkpoint took, counted from the warning.
report_checkpoint() {
  local newest
  newest=$(newest_checkpoint)
  [ -z "$newest" ] || awk -v a="$1" -v b="$(stat -c %.Y "$newest")" -v f="$newest" \
    'BEGIN { if (b > a) printf "checkpoint committed %.1f s after the warning: %s\n", b - a, f
             else printf "no newer checkpoint than %s\n", f }'
}
