"""lmms-eval's `generation_kwargs`, as they stand in its tasks, to how maskgen decodes."""

from typing import Any

from maskgen.age_vlm.generation import GenerationOptions
from maskgen.errors import MaskgenError

MAX_NEW_TOKENS = 1024
"""An answer's length where the task says nothing."""

_ALWAYS = {"num_beams": int, "repetition_penalty": float}
_SAMPLING = {"temperature": float, "top_p": float, "top_k": int}
_READ = {"max_new_tokens", "max_gen_toks", "until", "do_sample", *_ALWAYS, *_SAMPLING}


def generation_options(given: dict[str, Any]) -> GenerationOptions:
    """What `given` says; None is as good as absent. MaskgenError for a value that is no number.

    `do_sample` decides; where it is missing, a temperature over 0 samples. Temperature 0 never does.
    """
    values = {name: value for name, value in given.items() if value is not None}
    longest = values.get("max_new_tokens", values.get("max_gen_toks", MAX_NEW_TOKENS))
    temperature = _number("temperature", values.get("temperature", 1), float)
    sample = bool(values.get("do_sample", "temperature" in values)) and temperature > 0
    kinds = _ALWAYS | _SAMPLING if sample else _ALWAYS
    options = {name: _number(name, values[name], kind) for name, kind in kinds.items() if name in values}
    until = values.get("until", ())
    words = [until] if isinstance(until, str) else until
    return GenerationOptions(
        max_new_tokens=_number("max_new_tokens", longest, int),
        until=tuple(word for word in words if word),
        generate_kwargs={"do_sample": sample, **options},
    )


def unused_names(given: dict[str, Any]) -> list[str]:
    """The names in `given` that mean nothing to maskgen."""
    return sorted(name for name, value in given.items() if value is not None and name not in _READ)


def _number(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise MaskgenError(f"generation_kwargs: {name} is {value!r}, which is no number.") from None
