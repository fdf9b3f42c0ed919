"""README.md of a finished set: what it is, and how HF datasets loads it as it lies."""

from collections import Counter
from typing import Any

import yaml

from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sharding.commit import Commit
from maskgen.sharding.format import SCHEMA
from maskgen.sharding.huggingface import features

NAME = "README.md"
MARK = "<!-- Written by maskgen. Take this line out, and what you write here stays. -->"

_LICENCES = {
    "florence2": "Florence-2: MIT",
    "sam": "Segment Anything: Apache-2.0",
}
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}


def write_card(store: Store, commits: dict[int, Commit]) -> None:
    """Write the card, or bring it up to date; one without our mark is somebody's own, and is left alone."""
    before = store.read_bytes(NAME).decode("utf-8", "replace") if store.exists(NAME) else MARK
    text = card(store.read_json("run.json") if store.exists("run.json") else {}, commits)
    if MARK in before and text != before:
        store.write_bytes(NAME, text.encode())


def card(record: dict[str, Any], commits: dict[int, Commit]) -> str:
    """The card's text. `record`: run.json, or nothing. No time, host or path of this machine is in it."""
    config = record.get("config", {})
    samples = sum(commit.samples for commit in commits.values())
    outcomes: Counter[str] = Counter()
    for commit in commits.values():
        outcomes.update({str(name): count for name, count in commit.outcomes.items()})
    masks = outcomes[Outcome.OK] + outcomes[Outcome.SAM_DISAGREES]
    head = yaml.safe_dump(_front_matter(commits, samples), sort_keys=False, width=110)
    rows = "\n".join(f"| `{name}` | {count:,} |" for name, count in outcomes.most_common())
    return f"""---
{head}---
{MARK}

# {config.get("split", "a set")}: {samples:,} samples, {masks:,} with a grounding mask

Images with conversations, and where in the image the words are: WebDataset shards made by maskgen for
training attention-guided vision-language models (AGE-VLM, [paper](https://arxiv.org/abs/2511.17793)).

```python
from datasets import load_dataset

rows = load_dataset("PLACE", split="train", streaming=True)  # this folder, or its name on the hub
```

`index.parquet` has a row for every planned sample, without its image.

| outcome | rows |
|---|---|
{rows}

## How it was made

{_how(record)}

## Licences

{_licences(config)}
The images and conversations are the source's, and keep its licences: name them here before you hand the
set on.
"""


def _front_matter(commits: dict[int, Commit], samples: int) -> dict[str, Any]:
    """What the hub and HF datasets read."""
    size = next((name for most, name in _SIZES.items() if samples < most), "10M<n<100M")
    found: dict[str, Any] = {
        "license": "other",
        "task_categories": ["image-text-to-text", "image-segmentation"],
        "tags": ["webdataset", "maskgen"],
        "size_categories": [size],
    }
    if samples:
        version = max((commit.version for commit in commits.values()), default=SCHEMA)
        found["configs"] = [{"config_name": "default", "data_files": "*.tar"}]
        found["dataset_info"] = {"features": card_features(features(version))}
    return found


def card_features(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """`features` in the cards' own spelling."""
    return [{"name": name, **_typed(of)} for name, of in tree.items()]


def _typed(of: dict[str, Any]) -> dict[str, Any]:
    match of.get("_type"):
        case "Value":
            return {"dtype": of["dtype"]}
        case "Image":
            return {"dtype": "image"}
        case "List":
            inner = _typed(of["feature"])
            return {"list": inner["dtype"] if set(inner) == {"dtype"} else inner.get("struct", inner)}
        case _:
            return {"struct": card_features(of)}


def _how(record: dict[str, Any]) -> str:
    config, models = record.get("config", {}), record.get("models", {})
    if not config:
        return "Its run.json is missing."
    proposer, refiner = config["proposer"], config["refiner"]
    commit = models.get("proposer", {}).get("commit") or ""
    weights = " ".join(filter(None, (proposer.get("model", ""), f"({commit})" if commit else "")))
    lines = [
        f"- query: {config['text']['query']}",
        f"- proposer: {proposer['kind']} {weights}".rstrip(),
        f"- refiner: {refiner['kind']} {refiner.get('model', '')}".rstrip(),
        f"- grid: {config['grid']['cells']} x {config['grid']['cells']} cells, {config['grid']['fit']}",
        f"- fingerprint: {record.get('fingerprint', '')}",
    ]
    return "\n".join([*lines, "", "`run.json` has every setting, `index.parquet` the scores of every mask."])


def _licences(config: dict[str, Any]) -> str:
    kinds = [config.get(part, {}).get("kind", "") for part in ("proposer", "refiner")]
    return "".join(
        f"- {_LICENCES[kind]} (the weights that made the masks)\n" for kind in kinds if kind in _LICENCES
    )
