"""Pruning one frame and one token at a time, as released code does it: slow and obvious, for comparison only."""

import torch
import torch.nn.functional as F
from torch import Tensor


def prumerge(embeds: Tensor, attention: Tensor, keys: Tensor, budgets: list[int], neighbours: int = 32) -> list[Tensor]:
    """Rows [budget, D] of each frame, and their patches, in raster order."""
    rows, kept = [], []
    for frame, budget in enumerate(budgets):
        patches = attention[frame].argsort(descending=True, stable=True)[:budget].sort().values
        for patch in patches.tolist():
            others = torch.tensor([other for other in range(len(keys[frame])) if other != patch])
            cosines = F.cosine_similarity(keys[frame, patch][None], keys[frame, others], dim=1)
            near = others[cosines.topk(min(neighbours, len(others))).indices]
            rows.append(embeds[frame, patch] + (attention[frame, near][:, None] * embeds[frame, near]).sum(dim=0))
        kept.append(patches)
    return [torch.stack(rows) if rows else embeds[0, :0], *kept]


def tome_release(embeds: Tensor, keys: Tensor, budgets: list[int]) -> list[Tensor]:
    """Rows of all frames, and their patches per frame: KVTP's released merging, in raster order."""
    rows, kept = [], []
    for frame, budget in enumerate(budgets):
        tokens = [(patch, embeds[frame, patch], keys[frame, patch]) for patch in range(len(keys[frame]))]
        while 0 < budget < len(tokens):
            tokens = _release_round(tokens, len(tokens) - budget)
        tokens = sorted(tokens, key=lambda token: token[0]) if budget else []
        rows += [token for _, token, _ in tokens]
        kept.append(torch.tensor([patch for patch, _, _ in tokens], dtype=torch.int64))
    return [torch.stack(rows) if rows else embeds[0, :0], *kept]


def _release_round(tokens: list[tuple[int, Tensor, Tensor]], excess: int) -> list[tuple[int, Tensor, Tensor]]:
    hosts, others = tokens[::2], tokens[1::2]
    host_keys, other_keys = torch.stack([key for *_, key in hosts]), torch.stack([key for *_, key in others])
    cosines = F.cosine_similarity(other_keys[:, None], host_keys[None], dim=2)  # broadcast, as released
    best, choice = cosines.max(dim=1)
    gone = best.topk(min(excess, len(others))).indices.tolist()
    merged = []
    for index, (patch, token, key) in enumerate(hosts):
        members = [others[other] for other in gone if choice[other] == index]
        if members:
            parts = torch.stack([token, *[member for _, member, _ in members]])
            part_keys = torch.stack([key, *[member for *_, member in members]])
            norm = parts.norm(dim=1).max()
            token, key = (F.normalize(part.mean(dim=0), dim=0) * norm for part in (parts, part_keys))
        merged.append((patch, token, key))
    return merged + [token for index, token in enumerate(others) if index not in gone]


def tome_paper(embeds: Tensor, keys: Tensor, budgets: list[int]) -> list[Tensor]:
    """Rows of all frames, and their patches and sizes per frame: ToMe's size-weighted rounds, in raster order."""
    rows, kept = [], []
    for frame, budget in enumerate(budgets):
        tokens = [(patch, embeds[frame, patch], keys[frame, patch], 1) for patch in range(len(keys[frame]))]
        while 0 < budget < len(tokens):
            tokens = _paper_round(tokens, len(tokens) - budget)
        tokens = sorted(tokens, key=lambda token: token[0]) if budget else []
        rows += [token for _, token, _, _ in tokens]
        kept.append(torch.tensor([[patch, size] for patch, _, _, size in tokens], dtype=torch.int64).reshape(-1, 2))
    return [torch.stack(rows) if rows else embeds[0, :0], *kept]


def _paper_round(tokens: list[tuple[int, Tensor, Tensor, int]], excess: int) -> list[tuple[int, Tensor, Tensor, int]]:
    others, hosts = tokens[::2], tokens[1::2]
    matches, host_keys = [], torch.stack([host[2] for host in hosts])
    for index, (_, _, key, _) in enumerate(others):
        cosines = F.cosine_similarity(key[None], host_keys, dim=1)
        matches.append((float(cosines.max()), index, int(cosines.argmax())))
    matches.sort(key=lambda match: -match[0])
    excess = min(excess, len(tokens) // 2)
    for _, index, choice in matches[:excess]:
        _, token, key, size = others[index]
        patch, host, host_key, host_size = hosts[choice]
        total = size + host_size
        hosts[choice] = (
            patch,
            (token * size + host * host_size) / total,
            (key * size + host_key * host_size) / total,
            total,
        )
    return [others[index] for _, index, _ in matches[excess:]] + hosts
