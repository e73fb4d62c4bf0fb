"""Submit training to a batch system: `spectral-exp submit slurm --time 8:00:00 seed=1`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping

from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.shell import shell_command
from spectral_exp.core.wording import noun
from spectral_exp.submit import ray, slurm
from spectral_exp.submit.records import Submission, submit_script, submitted_folder
from spectral_exp.submit.script import Environment
from spectral_exp.submit.training_job import TrainingJob, prepare

_EPILOG = """\
Options come before the first override. Put -- before the flags of training:
spectral-exp submit slurm --workers 4 -- -m +experiment=wave seed=1,2,3. A word @FILE stands for the
options in a file, one or several on a line.
"""


class _SubmitParser(Parser):
    """Reads options from files too: `@cluster.txt`."""

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Return the words of a line as a shell separates them; # begins a comment."""
        try:
            return shlex.split(arg_line, comments=True)
        except ValueError as error:
            raise UserError(f"{arg_line}: {error}") from error


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _SubmitParser(
        "spectral-exp submit",
        description="Submit training as a job that continues wherever it was interrupted.",
    )
    systems = parser.add_subparsers(dest="system", required=True, metavar="SYSTEM")
    for name, text, add in (
        ("slurm", "a job for sbatch", _add_slurm_options),
        ("ray", "a job for a running Ray cluster", _add_ray_options),
    ):
        system = systems.add_parser(
            name,
            help=text,
            description=f"Submit {text}.",
            epilog=_EPILOG,
            fromfile_prefix_chars="@",
        )
        add(system)
        _add_common_options(system)
    return parser


def _add_slurm_options(parser: argparse.ArgumentParser) -> None:
    default = slurm.SlurmOptions()
    for option, metavar, text in (
        ("--partition", "NAME", "partition"),
        ("--account", "NAME", "account"),
        ("--qos", "NAME", "quality of service"),
        ("--time", "LIMIT", "time limit: minutes, h:mm:ss or days-hours"),
        ("--gpus", "N", "GPUs per node, as in 4 or a100:4"),
        ("--mem", "SIZE", "memory per node, as in 64G"),
        ("--mail", "ADDRESS", "gets a mail when the job ends or fails"),
    ):
        parser.add_argument(option, metavar=metavar, help=text)
    parser.add_argument(
        "--nodes",
        type=int,
        default=default.nodes,
        metavar="N",
        help=f"nodes (default: {default.nodes})",
    )
    parser.add_argument(
        "--tasks-per-node",
        type=int,
        default=default.tasks_per_node,
        metavar="N",
        help="processes on each node, each a rank of distributed training (default: "
        f"{default.tasks_per_node})",
    )
    parser.add_argument(
        "--give-up-after",
        type=int,
        default=default.give_up_after,
        metavar="N",
        help="end after this many starts in a row without a new checkpoint (default: "
        f"{default.give_up_after})",
    )
    parser.add_argument("--cpus", type=int, metavar="N", help="cores per task")
    for option, program in (("--sbatch", "sbatch"), ("--srun", "srun")):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="OPTION",
            help=f"a further option of {program}, as in {option}=--constraint=a100; repeatable",
        )


def _add_ray_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", help="the cluster, as in http://head:8265")
    parser.add_argument("--gpus", type=float, metavar="N", help="GPUs of the job")
    parser.add_argument("--cpus", type=float, metavar="N", help="cores of the job")
    parser.add_argument("--memory-gb", type=float, metavar="N", help="memory of the job")


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of jobs that share the runs of a sweep (default: 1)",
    )
    parser.add_argument(
        "--save-time",
        type=int,
        default=120,
        metavar="SECONDS",
        help="time for the last step and checkpoint before the job is ended (default: 120)",
    )
    parser.add_argument(
        "--setup",
        action="append",
        default=[],
        metavar="LINE",
        help="shell line to run first, as in 'module load cuda'; repeatable",
    )
    parser.add_argument(
        "--prefix",
        default="",
        metavar="WORDS",
        help="words before python, as in 'apptainer exec --nv image.sif'",
    )
    parser.add_argument(
        "--python", default=sys.executable, help="Python of the job (default: this one)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the script and submit nothing"
    )
    parser.add_argument(
        "train",
        nargs=argparse.REMAINDER,
        metavar="OVERRIDE",
        help="overrides and flags of `spectral-exp train`",
    )


def run(options: argparse.Namespace) -> int:
    """Check, write and submit the job."""
    environment = Environment(tuple(options.setup), options.prefix, options.python)
    requested = _slurm_options(options) if options.system == slurm.SYSTEM else _ray_options(options)
    arguments = options.train[1:] if options.train[:1] == ["--"] else options.train
    job = prepare(arguments)
    if isinstance(requested, slurm.SlurmOptions):
        return _submit_to_slurm(job, requested, environment, options.dry_run)
    return _submit_to_ray(job, requested, environment, options.dry_run)


def _slurm_options(options: argparse.Namespace) -> slurm.SlurmOptions:
    return slurm.SlurmOptions(
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        time=options.time,
        nodes=options.nodes,
        tasks_per_node=options.tasks_per_node,
        gpus=options.gpus,
        cpus=options.cpus,
        mem=options.mem,
        workers=options.workers,
        mail=options.mail,
        save_time_s=options.save_time,
        give_up_after=options.give_up_after,
        sbatch=tuple(options.sbatch),
        srun=tuple(options.srun),
    )


def _ray_options(options: argparse.Namespace) -> ray.RayOptions:
    return ray.RayOptions(
        address=options.address,
        gpus=options.gpus,
        cpus=options.cpus,
        memory_gb=options.memory_gb,
        workers=options.workers,
        save_time_s=options.save_time,
    )


def _submit_to_slurm(
    job: TrainingJob, options: slurm.SlurmOptions, environment: Environment, is_dry: bool
) -> int:
    script = slurm.slurm_script(job, options, environment)
    if is_dry:
        return _print_script(script)
    submission = submit_script(job, slurm.SYSTEM, script, slurm.submit)
    (number,) = submission.ids
    log = submission.file.with_name(f"slurm-{number}{'_*' if options.is_array else ''}.log")
    _report(
        job,
        submission,
        {
            "log": str(log),
            "state": f"squeue --jobs={number}",
            "cancel": f"scancel {number}",
        },
    )
    return 0


def _submit_to_ray(
    job: TrainingJob, options: ray.RayOptions, environment: Environment, is_dry: bool
) -> int:
    script = ray.ray_script(job, options, environment)
    ids = ray.new_submission_ids(job, options.workers)
    if is_dry:
        file = submitted_folder(job) / f"{ray.SYSTEM}.sh"
        return _print_script(ray.dry_run_text(script, options, file, ids))
    submission = submit_script(job, ray.SYSTEM, script, lambda file: ray.submit(file, options, ids))
    where = [f"--address={options.address}"] if options.address else []
    actions = {"log": "logs", "state": "status", "cancel": "stop"}
    _report(
        job,
        submission,
        {name: shell_command(["ray", "job", a, *where, ids[0]]) for name, a in actions.items()},
    )
    return 0


def _print_script(script: bytes) -> int:
    """Print the bytes of a script, which need not be text."""
    sys.stdout.flush()
    sys.stdout.buffer.write(script)
    return 0


def _report(job: TrainingJob, submission: Submission, further: Mapping[str, str]) -> None:
    """Print what was submitted, and how to follow it."""
    print(f"submitted {noun(len(submission.ids), 'job')} {', '.join(submission.ids)}")
    lines = {"run": str(job.folder), "script": str(submission.file), **further}
    for name, text in lines.items():
        print(f"  {name:<7} {printable(text)}")


main = command(build_parser, run)
