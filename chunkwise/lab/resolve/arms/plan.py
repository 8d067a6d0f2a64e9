"""From a plan to arms: match each part, read its replacements, build and check the arms.

    entry --Registry.match--> component(s) --Interpreter.read--> readings --> rows and arms

An arm may differ from the baseline in the matched components' fields and their declared
consequences only (contrast hygiene). Arms of a composition are compared with a view of as many
tokens in natural proportions, never with the full datastore; a removal that can be read in two ways
gets both arms. Nothing here runs or reads data; what the built datastore cannot serve is found in
the run (`looks.check_views`), and marked by `mark_infeasible`.
"""

from chunkwise.core.errors import ConfigError, PlanError
from chunkwise.core.io import canonical_json, digest_bytes
from chunkwise.lab.plan.document import PlanDocument
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.buildable import unbuildable
from chunkwise.lab.resolve.arms.entry import EntryResolver
from chunkwise.lab.resolve.arms.overrides import Overrides, require_known
from chunkwise.lab.resolve.arms.status import mark_infeasible
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.paper import Paper
from chunkwise.lab.resolve.resolution import EntryResolution, Resolution
from chunkwise.lab.resolve.subject import subject_of, subject_of_entry


def resolve(
    document: PlanDocument,
    profile: Profile,
    *,
    paper: Paper | None = None,
    overrides: Overrides | None = None,
    registry: Registry | None = None,
) -> Resolution:
    """Turn a plan into arms.

    Args:
        paper: whose values quantities are translated against, whatever the plan names; default:
            the profile's, unless the plan names another one.

    Raises:
        PlanError: the document holds no usable entry, or an override names what does not exist.
    """
    if not document.entries:
        errors = [remark.message for remark in document.diagnostics if remark.severity == "error"]
        hint = "`chunkwise plan check PLAN` shows how the plan is read"
        raise PlanError(f"the plan holds no usable entry: {'; '.join(errors)}", hint=hint)
    overrides = overrides or Overrides()
    registry = registry or Registry(type(profile))
    subject, paper = subject_of(document, profile, registry, paper)
    require_known(overrides, document, registry)
    _require_leaves_out(profile, registry)
    entries = []
    for entry in document.entries:
        override = overrides.of(entry)
        about, own_paper = subject_of_entry(entry, profile, registry, subject, paper)
        resolver = EntryResolver(entry, override, profile, own_paper, registry, about)
        entries.append(resolver.resolution())
    # By its settings, not by its name: `--set` makes another study of a packaged profile.
    profile_json = canonical_json(profile.model_dump(mode="json"))
    resolution = Resolution(
        plan_sha256=document.source_sha256,
        plan_title=document.title,
        profile=profile.name,
        profile_digest=digest_bytes(profile_json.encode()),
        paper=paper.id if paper else None,
        subject=subject,
        registry_digest=registry.digest,
        overrides=overrides.model_dump(mode="json") if overrides.entries else None,
        entries=_with_not_varied(entries, registry),
    )
    # Last, on arms as they stand: what the base cannot carry depends on all changes together.
    return mark_infeasible(resolution, unbuildable(resolution, profile))


def _with_not_varied(
    entries: list[EntryResolution], registry: Registry
) -> tuple[EntryResolution, ...]:
    """The entries, each with a warning for every component that it names and no entry varies."""
    varied: set[str | None] = set()
    for entry in entries:
        varied.update(row.component for row in entry.replacements if row.arm)
    return tuple(_not_varied(entry, varied, registry) for entry in entries)


def _not_varied(
    entry: EntryResolution, varied: set[str | None], registry: Registry
) -> EntryResolution:
    warnings = list(entry.warnings)
    # A part of one component varies it or says in its rows why not.
    if entry.action == "REPLACE" and len(entry.components) > 1:
        answered = varied | {row.component for row in entry.replacements}
        for component in entry.components:
            if component not in answered:
                title = registry.components[component].title
                warnings.append(f"{title} is named but not varied")
    return entry.model_copy(update={"warnings": tuple(dict.fromkeys(warnings))})


def _require_leaves_out(profile: Profile, registry: Registry) -> None:
    """Refuse what a profile leaves out and no arm could ever ask for.

    Raises:
        ConfigError: a setting that no plan can vary, or the profile's own value.
    """
    for left_out in profile.leaves_out:
        where = f"profile {profile.name} leaves out {left_out.setting!r}"
        if left_out.setting not in registry.fields:
            raise ConfigError(f"{where}, which is no setting that a plan can vary")
        for value in left_out.values or ():
            # As an arm would have it: "1" or 0 would never equal the value of an arm.
            changed = profile.changed({left_out.setting: value}, where=where)
            written = changed.value(left_out.setting)
            if written == profile.value(left_out.setting):
                raise ConfigError(f"{where}={value!r}, which is its own value")
            if not left_out.means(written):
                raise ConfigError(f"{where}={value!r}, which is written {written!r}")
