"""What starts a program of several ranks beside it: a script for Open MPI, and a batch script for Slurm."""

from __future__ import annotations

from mlc.mesh import Mesh

_MPIRUN = """\
#!/bin/sh
# {name} on {ranks} ranks under Open MPI: pp {pp} x dp {dp}. Options of the program follow, those of mpirun are in MPIRUN_OPTIONS:
#
#   ./{name}.mpirun.sh --data FILE --steps N --threads T
#   MPIRUN_OPTIONS="--hostfile hosts" ./{name}.mpirun.sh --data FILE
#
# The {pp} places of replica 0 come first, then those of replica 1. Every machine needs this directory under the same path.
exec mpirun -n {ranks} --bind-to none ${{MPIRUN_OPTIONS-}} "$(cd "$(dirname "$0")" && pwd)/{name}" --transport mpi "$@"
"""

_SLURM = """\
#!/bin/bash
# {name} on {ranks} ranks under Slurm: pp {pp} x dp {dp}. Submit it in this directory; options of the program follow:
#
#   sbatch --cpus-per-task=8 {name}.sbatch --data FILE --checkpoint DIR --resume auto
#
#SBATCH --job-name={name}
#SBATCH --ntasks={ranks}
#SBATCH --cpus-per-task=1
#SBATCH --signal=USR1@120
#
# Two minutes before its time is over the job gets SIGUSR1: the ranks save after the step and exit with 0.
cd "$SLURM_SUBMIT_DIR" || exit 1
threads=${{SLURM_CPUS_PER_TASK:-1}}
exec srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task="$threads" ./{name} --transport mpi --threads "$threads" "$@"
"""


def launch_files(name: str, mesh: Mesh) -> tuple[tuple[str, str], ...]:
    """The launch files of a program: (path beside the program, text), both to be executable. A program of one rank has none."""
    if mesh.ranks == 1:
        return ()
    values = {"name": name, "ranks": mesh.ranks, "pp": mesh.pp, "dp": mesh.dp}
    return (f"{name}.mpirun.sh", _MPIRUN.format(**values)), (f"{name}.sbatch", _SLURM.format(**values))
