"""`maskgen doctor`: what a run will find here, and what to do about what it lacks."""

from collections.abc import Callable

from maskgen.config import Config, Sam
from maskgen.draw import text
from maskgen.grounding.auto_settings import in_words, on_this_machine
from maskgen.grounding.weights import DEMO
from maskgen.views import doctor_inputs, doctor_machine
from maskgen.views.finding import Finding, checked

_SIGNS = {True: "ok", None: "warning", False: "problem"}


def examine(config: Config | None, out: str | None, data: str | None, address: str) -> list[Finding]:
    """Every check that the arguments allow. Never raises; takes seconds, but for archives with millions of
    members."""
    full_size = config is not None and is_full_size(config)
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("packages", doctor_machine.python),
        ("GPU", lambda: doctor_machine.gpus(full_size)),
        ("processors", lambda: doctor_machine.memory(full_size)),
        ("/dev/shm", doctor_machine.shared_memory),
        ("Ray", lambda: doctor_machine.ray(address)),
    ]
    if config is not None:
        checks += [
            ("proposer", lambda: doctor_inputs.proposer(config, data or "")),
            ("refiner", lambda: doctor_inputs.refiner(config)),
            ("settings", lambda: _settings(config, address)),
            ("data", lambda: doctor_inputs.rows(config, data or "")),
        ]
        if data and config.source.scenes is None:
            checks.append(("images", lambda: doctor_inputs.images(config, data, out or "")))
    if out:
        checks += [
            ("output", lambda: doctor_inputs.output(out)),
            ("disk", lambda: doctor_inputs.disk(config, out, data or "")),
            ("lease", lambda: doctor_inputs.lease(out)),
        ]
    return [checked(name, check) for name, check in checks]


def render(findings: list[Finding]) -> str:
    """A line for each finding, the remedy under it, and what it comes to."""
    lines = []
    for finding in findings:
        lines.append(f"{_SIGNS[finding.ok]:<9}{finding.name:<12}{text.plain(finding.found)}")
        if finding.remedy:
            lines.append(f"{'':<21}→ {text.plain(finding.remedy)}")
    problems = sum(finding.ok is False for finding in findings)
    warnings = sum(finding.ok is None for finding in findings)
    lines.append("")
    lines.append(
        f"{text.plural(problems, 'problem')}, {text.plural(warnings, 'warning')}."
        if problems or warnings
        else "Everything is in place."
    )
    if any(finding.name in ("proposer", "refiner") and finding.ok is not True for finding in findings):
        lines.append("Which weights, from where, with or without a network: docs/weights.md.")
    if not any(finding.name == "proposer" for finding in findings):
        lines.append("With --split (and --data, --out) the weights, the rows and the disk are checked too.")
    return "\n".join(lines)


def _settings(config: Config, address: str) -> Finding:
    """Dtypes, batches and slots: as the configuration says them, or as this machine's device does."""
    resolved = on_this_machine(config)
    if not resolved:
        return Finding("settings", True, in_words(config) or "no model is loaded")
    remedy = f"The workers of {address} choose by their own devices." if address else ""
    return Finding("settings", True, resolved, remedy)


def is_full_size(config: Config) -> bool:
    """Whether the configuration loads models that want a GPU."""
    proposes = config.proposer.kind == "florence2" and config.proposer.model != DEMO
    return proposes or (isinstance(config.refiner, Sam) and config.refiner.model != DEMO)
