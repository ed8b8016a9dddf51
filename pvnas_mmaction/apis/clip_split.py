"""Clips as three lists, with the clips of one source in one of them: by a regular
expression of their names, or frames whose perceptual hashes differ in few bits."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse.csgraph import connected_components

from ..space.checks import wrong
from .video_folder import Clip

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
BITS = 64  # of a hash
# Bits in which the hashes of two frames of one source differ at most. With 10,
# one in 10,000 pairs of tennis clips from two scenes is taken for one source; where all
# clips look alike, as depth maps do, it has to be less.
NEAR = (10, 6, 3, 0)
LARGEST = 0.2


def split_by_source(
    clips: Sequence[Clip], pattern: str | None, seed: int
) -> tuple[dict[str, list[Clip]], str]:
    """:func:`split_clips` by the groups of :func:`group_clips`, and what they are.
    Where near-duplicates leave no split, hashes have to be nearer, or else each clip is
    a group."""
    most = 0
    for near in NEAR:
        grouped = group_clips(clips, pattern, near)
        lists = split_clips(grouped, seed)
        sizes = Counter(clip.group for clip in grouped)
        most = max(sizes.values())
        found = f"{len(sizes)} groups, the largest of {most} clips"
        if pattern is not None:
            return lists, f"{found}, by --group-regex"
        if most <= LARGEST * len(clips) and not lacking(lists):
            return lists, f"{found}, by near-duplicate frames"
    print(
        f"warning: the frames of {most} of {len(clips)} clips look alike, so clips are "
        "split one by one; where a recording has several clips, name the recordings by "
        "--group-regex: accuracies are too high otherwise"
    )
    return split_clips(group_clips(clips, ".+"), seed), "clip by clip"


def group_clips(
    clips: Sequence[Clip], pattern: str | None, near: int = NEAR[0]
) -> list[Clip]:
    """Give clips of one source one group: by the first group of ``pattern`` in the path
    (or all that it matches; ValueError where it does not), else by chains of frames
    whose hashes differ in ``near`` bits at most."""
    if pattern is not None:
        try:
            found = [re.search(pattern, clip.path) for clip in clips]
        except re.error as error:
            expected = "a regular expression"
            raise wrong("--group-regex", expected, f"{pattern!r}: {error}") from error
        sources = [match and match[min(1, match.re.groups)] for match in found]
        if None in sources:
            path = clips[sources.index(None)].path
            got = f"no match in {path}"
            raise wrong("--group-regex", "one that matches every path", got)
        pairs = zip(clips, sources, strict=True)
        return [replace(clip, group=str(source)) for clip, source in pairs]
    octets = np.array([clip.hashes for clip in clips], np.uint64).view(np.uint8)
    signs = 2.0 * np.unpackbits(octets, axis=1) - 1
    frames = signs.reshape(-1, BITS)
    alike = [
        (frames @ own.reshape(-1, BITS).T >= BITS - 2 * near).any(1) for own in signs
    ]
    pairs = np.reshape(alike, (len(clips), len(clips), -1)).any(2)
    _, groups = connected_components(pairs, directed=False)
    return [replace(c, group=str(g)) for c, g in zip(clips, groups, strict=True)]


def split_clips(clips: Sequence[Clip], seed: int) -> dict[str, list[Clip]]:
    """Train, validation and test clips, no group on two sides, with about the shares of
    :data:`SHARES` of each class: groups go, the largest first, to the list that lacks
    most of their classes; ``seed`` orders groups of one size."""
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        members[clip.group].append(clip)
    groups = [members[name] for name in sorted(members)]
    random.Random(seed).shuffle(groups)
    groups.sort(key=len, reverse=True)
    totals = Counter(clip.label for clip in clips)
    room = {
        split: {label: max(share * count, 1.0) for label, count in totals.items()}
        for split, share in SHARES.items()
    }
    chosen: dict[str, str] = {}
    for group in groups:
        counts = Counter(clip.label for clip in group)

        def gain(split: str, counts: Counter = counts) -> float:
            return sum(
                count * room[split][label] / (SHARES[split] * totals[label])
                for label, count in counts.items()
            )

        best = max(SHARES, key=gain)
        chosen[group[0].group] = best
        for label, count in counts.items():
            room[best][label] -= count
    return {s: [c for c in clips if chosen[c.group] == s] for s in SHARES}


def lacking(lists: dict[str, list[Clip]]) -> str | None:
    """The first list that lacks a class, or two training clips of it; else None."""
    labels = {clip.label for clips in lists.values() for clip in clips}
    for split, clips in lists.items():
        counts = Counter(clip.label for clip in clips)
        if any(counts[label] < (2 if split == "train" else 1) for label in labels):
            return split
    return None
