"""What was asked for: a plan, a profile and the user's answers, read and resolved in one way for
`plan check`, a dry run and a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chunkwise.core.errors import ConfigError, PlanError
from chunkwise.core.progress import note
from chunkwise.graph.workers import default_workers
from chunkwise.lab.plan import read as plans
from chunkwise.lab.plan.document import PlanDocument
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.overrides import load_overrides
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.resolve.paper import about_paper
from chunkwise.lab.resolve.resolution import Resolution
from chunkwise.training.pretrained import base_folder

DONE, PARTLY = 0, 3
"""Exit status: of a plan that is run as a whole, and of one that is not."""


@dataclass(frozen=True)
class Asked:
    """A plan under a profile."""

    document: PlanDocument
    plan_text: str
    profile: Profile
    resolution: Resolution

    @property
    def status(self) -> int:
        """3 where a part of the plan cannot be read or run."""
        return PARTLY if self.resolution.exit_code or self.document.exit_code else DONE


def ask(
    plan: Path | str,
    profile: Profile,
    *,
    paper: Path | str | None = None,
    overrides: Path | None = None,
    strict: bool = False,
    download: bool = False,
    quiet: bool = False,
) -> Asked:
    """Read a plan and turn it into arms.

    Args:
        paper, overrides: as of `ablate`.
        strict: refuse a plan of which a part cannot be read.
        quiet: say nothing of what could not be read, which the caller does.
        download: fetch a base from the hub first, so that the arms can be held against it.

    Raises:
        ChunkwiseError: no such plan, no usable entry, or a profile that cannot be built.
    """
    document, plan_text = open_plan(plan)
    answers = load_overrides(overrides) if overrides else None
    profile, named_paper = about_paper(profile, paper)
    if download and profile.pretrained is not None:
        # Whether an arm can be built is known from the base's config.json.
        base_folder(profile.pretrained)
    resolution = resolve(document, profile, paper=named_paper, overrides=answers)
    if not quiet:
        _report_unread(document, plan, strict)
    return Asked(document, plan_text, profile, resolution)


def open_plan(plan: Path | str) -> tuple[PlanDocument, str]:
    """A plan and its text: a file, or a packaged plan by name.

    Raises:
        PlanError: there is no such plan.
    """
    data = plans.plan_bytes(plan)
    return plans.parse(data), data.decode("utf-8", "replace")


def worker_count(workers: int | None) -> int:
    """How many jobs run at a time; by default as many as the machine has devices or cores for.

    Raises:
        ConfigError: none are asked for.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"expected one worker or more, got {workers}")
    return workers or default_workers()


def _report_unread(document: PlanDocument, plan: Path | str, strict: bool) -> None:
    """Tell what of the plan could not be parsed, or refuse it with `strict`."""
    errors = [remark for remark in document.diagnostics if remark.severity == "error"]
    unread = [f"line {remark.line}: {remark.message}" for remark in errors]
    if strict and unread:
        raise PlanError(
            f"part of the plan could not be parsed: {'; '.join(unread)}",
            hint="fix it, or drop --strict",
        )
    for remark in unread:
        note(f"not read: {plan}, {remark}")
