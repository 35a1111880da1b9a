# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Which operators take the time of a forward on a CPU."""
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from .models import run_model

KINDS = {
    'convolutions, linear layers':
    ('aten::mkldnn_convolution', 'mkldnn::_convolution_pointwise',
     'mkldnn::_convolution_pointwise_', 'mkldnn::_linear_pointwise',
     'aten::_slow_conv2d_forward', 'aten::thnn_conv2d', 'aten::addmm',
     'aten::mm'),
    'attention, other products':
    ('aten::bmm', 'aten::baddbmm', 'aten::_softmax',
     'aten::_scaled_dot_product_flash_attention_for_cpu',
     'aten::_scaled_dot_product_flash_attention'),  # torch 2.1
    'activations':
    ('aten::relu', 'aten::relu_', 'aten::clamp_min', 'aten::clamp_min_',
     'aten::silu', 'aten::silu_', 'aten::gelu', 'aten::gelu_',
     'aten::sigmoid', 'aten::sigmoid_', 'aten::hardtanh', 'aten::hardtanh_',
     'aten::hardswish', 'aten::hardswish_'),
    'copies, concatenations':
    ('aten::copy_', 'aten::cat', 'aten::index', 'aten::index_select',
     'aten::gather', 'aten::im2col', 'aten::constant_pad_nd', 'aten::roll'),
    'norms':
    ('aten::native_layer_norm', 'aten::native_batch_norm',
     'aten::native_group_norm'),
}
"""Operators by what they do; all others are ``REST``.

Activations that run inside a convolution count as convolution.
"""
REST = 'additions and the rest'
_KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


@dataclass
class OperatorTimes:
    """Time of the operators of one forward.

    Attributes:
        seconds: By kind: those of :data:`KINDS`, and ``REST``.
        calls: Calls of operators, those inside of other operators included.
    """
    seconds: dict[str, float]
    calls: int


def operator_times(model: nn.Module, images: Tensor,
                   forwards: int = 6) -> OperatorTimes:
    """Profile a model in inference mode on a CPU.

    Args:
        model: On the CPU, in eval mode.
        images: (B, C, H, W).
        forwards: So many are profiled after a first one that is not. For each
            operator the fastest forward counts, all of its calls together.
    """
    fastest: dict[str, float] = {}
    with torch.inference_mode():
        run_model(model, images)
        for _ in range(forwards):
            with profile(activities=[ProfilerActivity.CPU]) as record:
                run_model(model, images)
            events = record.key_averages()
            for event in events:
                seconds = event.self_cpu_time_total / 1e6
                fastest[event.key] = min(
                    seconds, fastest.get(event.key, seconds))
    seconds = dict.fromkeys((*KINDS, REST), 0.)
    for name, value in fastest.items():
        seconds[_KIND_OF.get(name, REST)] += value
    return OperatorTimes(seconds, sum(event.count for event in events))


def machine_rates(seconds: float = 1.) -> dict[str, float]:
    """Multiply-adds per second of two operators that a CPU does well.

    Args:
        seconds: For each of them; its fastest call counts.

    Returns:
        dict: ``matmul``: 1024 x 1024 times 1024 x 12544 numbers; ``conv``: a
        3 x 3 convolution of 256 channels of 128 x 128; float32.
    """
    left, right = torch.ones(1024, 1024), torch.ones(1024, 12544)
    image, weight = torch.ones(1, 256, 128, 128), torch.ones(256, 256, 3, 3)
    work = dict(
        matmul=(lambda: left @ right, 1024 * 1024 * 12544),
        conv=(lambda: F.conv2d(image, weight, padding=1),
              256 * 256 * 9 * 128 * 128))
    with torch.inference_mode():
        return {name: macs / _fastest(step, seconds)
                for name, (step, macs) in work.items()}


def _fastest(step: Callable[[], Tensor], seconds: float) -> float:
    best, end = float('inf'), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return best


def profile_tables(rows: Iterable[Mapping[str, object]]) -> str:
    """A table for each size, in Markdown.

    Args:
        rows: Of profile_operators.py, or of its file.
    """
    rows = list(rows)
    first = rows[0]
    lines = [
        f'{first["device_name"]} ({first["cpu_count"]} CPUs), '
        f'{first["threads"]} threads, allocator {first["allocator"]}, torch '
        f'{first["torch"]}, {first["date"][:10]}, {first["commit"]}. The best '
        f'matrix product of this machine: {float(first["matmul_gmac_s"]):.0f} '
        'GMAC/s, the best 3x3 convolution: '
        f'{float(first["conv_gmac_s"]):.0f}.']
    for size in dict.fromkeys((r['height'], r['width']) for r in rows):
        lines += [
            '', f'| {size[0]} x {size[1]} | ms | in operators | calls '
            f'| GMAC/s | {" | ".join((*KINDS, REST))} |',
            '| --- ' * (6 + len(KINDS)) + '|']
        for row in rows:
            if (row['height'], row['width']) != size:
                continue
            times = [float(row[kind]) for kind in (*KINDS, REST)]
            ms = float(row['median_ms'])
            rate = float(row['executed_gmac']) / ms * 1e3
            lines.append(
                f'| {row["model"]} | {ms:.4g} | {sum(times):.4g} '
                f'| {row["calls"]} | {rate:.0f} | ' + ' | '.join(
                    f'{value / sum(times):.0%}' for value in times) + ' |')
    return '\n'.join(lines)
