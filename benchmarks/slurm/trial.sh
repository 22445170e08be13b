#!/bin/bash
# Run the batch scripts of examples/slurm for real: SLURM of Debian's packages on this machine, with two nodes.
#
#     benchmarks/slurm/trial.sh [OUTPUT]        # as root; default OUTPUT: benchmarks/results/slurm.txt
#
# Needs slurmctld, slurmd and slurm-client (apt-get install --no-install-recommends slurmctld slurmd slurm-client) and
# `make .venv`. SLURM, Ray and the jobs live in namespaces of their own: nothing can be reached from outside, and nothing
# is left of them when this ends, in whatever way. What was printed goes to OUTPUT.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ -z "${INSIDE:-}" ]; then
    output=$(realpath -m "${1:-$root/benchmarks/results/slurm.txt}")
    mkdir -p "$(dirname "$output")"
    RUN=$(mktemp -d)
    export RUN INSIDE=yes PATH="$root/.venv/bin:$PATH"
    trap 'rm -rf "$RUN"' EXIT
    unshare --net --pid --mount --fork --mount-proc --kill-child "$0" 2>&1 | tee "$RUN/printed" || failed=$?
    # Folders differ from run to run and say nothing.
    sed -e "s#$RUN#RUN#g" -e "s#$root#.#g" "$RUN/printed" >"$output"
    exit "${failed:-0}"
fi

say() { printf '\n$ %s\n' "$*"; }
shown() { say "$@"; "$@"; }
finished() { # wait for a job, or all tasks of an array; show how each ended, and what it printed
    for _ in $(seq 600); do
        [ -z "$(squeue --noheader --jobs="$1" --states=PENDING,RUNNING,COMPLETING 2>/dev/null)" ] && break
        sleep 0.5
    done
    local failed=0
    while read -r line; do
        for word in $line; do
            case $word in JobId=* | ArrayTaskId=* | JobState=* | ExitCode=* | RunTime=* | Restarts=*) echo -n "$word " ;; esac
        done
        echo
        [[ $line == *JobState=COMPLETED* ]] || failed=1
    done < <(scontrol --oneliner show job "$1")
    for printed in slurm-"$1".out slurm-"$1"_*.out; do
        if [ -e "$printed" ]; then say "cat $printed"; cat "$printed"; fi
    done
    return $failed
}

# The resolver wants an address beside the loopback, and the nodes a name for it; both are these namespaces' own.
ip link set lo up
ip link add inside type veth peer name outside
ip address add 10.77.0.1/24 dev inside
ip link set inside up
ip link set outside up
printf '127.0.0.1 localhost\n10.77.0.1 %s\n' "$(hostname)" >"$RUN/hosts"
mount --bind "$RUN/hosts" /etc/hosts

export SLURM_CONF=$RUN/slurm.conf RAY_TMPDIR=$RUN
mkdir -p "$RUN"/{state,spool,log,jobs}
sed -e "s#RUN#$RUN#g" -e "s#HOST#$(hostname)#g" "$here/slurm.conf" >"$SLURM_CONF"
slurmctld -c -f "$SLURM_CONF"
for node in n1 n2; do slurmd -f "$SLURM_CONF" -N "$node"; done
for _ in $(seq 50); do [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ] && break; sleep 0.5; done

cd "$RUN/jobs"
python - <<'PROBLEM'
import numpy as np
rng = np.random.default_rng(0)
features = rng.normal(size=(400, 600))
np.save("features.npy", features)
np.save("targets.npy", features @ (rng.normal(size=(600, 512)) * (rng.random((600, 512)) < 0.05)) + 0.1 * rng.normal(size=(400, 512)))
PROBLEM
scripts=$root/examples/slurm
options=(features.npy targets.npy --beta 5 --kappa 20)

shown slurmctld -V
shown sinfo --Node --format='%N %T %c'
say "simplicit solve ${options[*]} --executor serial --output serial"
simplicit solve "${options[@]}" --executor serial --output serial

say "sbatch ray.sbatch ${options[*]} --output ray"
finished "$(sbatch --parsable --mem=500 "$scripts/ray.sbatch" "${options[@]}" --output ray)"
shown cmp serial/coefficients.safetensors ray/coefficients.safetensors && echo the same bytes

say "PARTS=4 JOURNAL=journal sbatch --array=1-4 array.sbatch ${options[*]}"
array=$(PARTS=4 JOURNAL=journal sbatch --parsable --array=1-4 --mem=500 "$scripts/array.sbatch" "${options[@]}")
say "sbatch --dependency=afterok:$array merge.sbatch journal --output merged"
merge=$(sbatch --parsable --mem=500 --dependency="afterok:$array" "$scripts/merge.sbatch" journal --output merged)
finished "$array"
finished "$merge"
shown simplicit journal show journal
shown cmp serial/coefficients.safetensors merged/coefficients.safetensors && echo the same bytes

echo
echo "--- a task that is killed in mid-run and requeued ---"
say "PARTS=1 JOURNAL=again sbatch --array=1-1 array.sbatch ${options[*]} --executor processes --block-rows 4"
array=$(PARTS=1 JOURNAL=again sbatch --parsable --array=1-1 --mem=500 "$scripts/array.sbatch" "${options[@]}" \
    --executor processes --block-rows 4)
for _ in $(seq 600); do [ "$(find again -name '*.safetensors' 2>/dev/null | wc -l)" -ge 5 ] && break; sleep 0.1; done
shown scontrol requeue "${array}_1"
echo "blocks in the journal: at least $(find again -name '*.safetensors' | wc -l)"
sleep 1
scontrol update "JobId=${array}_1" StartTime=now 2>/dev/null || true
finished "$array"
shown simplicit journal merge again --output requeued
shown simplicit solve "${options[@]}" --executor serial --block-rows 4 --output fours
shown cmp fours/coefficients.safetensors requeued/coefficients.safetensors && echo the same bytes
