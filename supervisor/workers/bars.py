"""Progress bars in what a worker writes: which line is one, and what it says. Pure.

A bar is drawn over itself again and again, up to ten times a second: only its newest state says anything.
"""

import re

# tqdm's two forms, as huggingface_hub and transformers draw them; of the second the whole is not known:
#   model.safetensors:  34%|███▍      | 30.9M/90.9M [00:03<00:06, 9.52MB/s]
#   config.json: 12.3MB [00:01, 9.52MB/s]
_OF_ALL = re.compile(r"(?:(?P<what>\S.*?): *| *)(?P<share>\d{1,3})%\|.*\|[^|]*\[(?P<pace>[^\]]*)\]")
_SO_FAR = re.compile(r"(?P<what>\S.*?): *(?P<share>[\d.]+[kMGT]?B) \[(?P<pace>[^\]]*)\]")


def is_bar(line: str) -> bool:
    """Whether a line is one state of a bar."""
    return _match(line) is not None


def in_words(line: str) -> str:
    """What a bar says: "downloading model.safetensors 34 %"; "" when the line is no bar, or one that is full."""
    bar = _match(line)
    if bar is None or bar["share"] == "100":
        return ""
    share = f"{bar['share']} %" if bar.re is _OF_ALL else bar["share"]
    what = bar["what"] or ""
    if "B/s" in bar["pace"]:  # others count pieces: "it/s"
        what = "downloading " + what.rpartition("/")[2]  # of a hub without names for them it is the end of an address
    return f"{what} {share}".strip()


def _match(line: str) -> "re.Match[str] | None":
    return _OF_ALL.fullmatch(line) or _SO_FAR.fullmatch(line)
