# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Convolutional self-attention (CSA) of LVT, arXiv 2112.10809, section 3.1."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .linear import PointwiseConv
from .utils import is_traced, widen


class ConvolutionalSelfAttention(nn.Module):
    r"""Convolutional self-attention, Eq. 3 and 4 of the paper.

    Windows of 3x3 places lie at stride 2 (padding 1). In each, and for each
    head, every place i gathers from all nine places j::

        alpha_i = softmax_j((A_ij p + b_ij) head_dims^-0.5)  Eq. 3
        y_i = sum_j alpha_ij W_j x_j                         Eq. 4

    with one d x d matrix ``W_j`` per place, as in a 3x3 convolution, and p
    the mean of the map over the window's 2x2 stride, from which all 81
    weights are predicted. A place of the map that lies in several windows
    gets the sum of what they give. A linear layer follows.

    The paper leaves open stride, p, the scale and how windows are put
    together; these are the authors' network. Where the map is odd, p is the
    mean of what is inside.

    Args:
        embed_dims: Channels d of the map.
        num_heads: Heads.

    Raises:
        ValueError: ``embed_dims`` is not a multiple of ``num_heads``.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} must be a multiple of '
                             f'num_heads={num_heads}')
        self.num_heads = num_heads
        self.head_dims = embed_dims // num_heads
        # Channels in the order (j, head, i): over the innermost nine a
        # softmax takes 10 times as long on a CPU.
        self.weights = PointwiseConv(embed_dims, 81 * num_heads)
        self.values = nn.Conv2d(
            9 * embed_dims, 9 * embed_dims, 1, groups=9, bias=False)
        self.proj = PointwiseConv(embed_dims, embed_dims)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for conv in (self.weights, self.proj):
            nn.init.trunc_normal_(conv.weight, std=0.02)
            nn.init.zeros_(conv.bias)
        nn.init.kaiming_normal_(
            self.values.weight, mode='fan_out', nonlinearity='relu')

    def attention_weights(self, x: Tensor) -> Tensor:
        """alpha of all windows.

        Args:
            x: (B, d, H, W)

        Returns:
            (B, ceil(H / 2), ceil(W / 2), heads, 9, 9), the last two i and j,
            in float32 or wider.
        """
        # with padding counted onnxruntime would count what lies outside, too
        p = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        logits = widen(self.weights(p)).permute(0, 2, 3, 1)
        alpha = (logits * self.head_dims**-0.5).unflatten(
            3, (9, self.num_heads, 9)).softmax(3)
        return alpha.permute(0, 1, 2, 4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, H, W) -> (B, d, H, W)"""
        height, width = x.shape[2:]
        rows, cols = (height + 1) // 2, (width + 1) // 2
        alpha = self.attention_weights(x).to(x.dtype)

        if torch.is_grad_enabled() and not is_traced():
            # the gradient of each strided slice would be a whole map of zeros
            even = F.pad(x, (0, width % 2, 0, height % 2)).permute(0, 2, 3, 1)
            places = torch.stack([
                place for line in _places(even, 1)
                for place in _places(line, 2)
            ])
        else:
            padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
            places = torch.stack([
                padded[:, i:i + 2 * rows - 1:2, j:j + 2 * cols - 1:2]
                for i in range(3) for j in range(3)
            ])
        matrices = self.values.weight.view(9, -1, x.shape[1]).transpose(1, 2)
        values = torch.matmul(places.flatten(1, 3), matrices).view(
            *places.shape[:4], self.num_heads, self.head_dims)
        values = values.permute(1, 2, 3, 4, 0, 5)
        out = torch.matmul(alpha, values).unflatten(4, (3, 3))
        out = _overlap_add(_overlap_add(out, 1, height), 2, width)
        return self.proj(out.flatten(3).permute(0, 3, 1, 2))

    def nominal_macs(self, inputs: tuple, output: Tensor) -> dict[str, int]:
        """Convolutions; attention: 9 x 9 weights times the values."""
        batch, embed_dims, height, width = inputs[0].shape
        windows = batch * ((height + 1) // 2) * ((width + 1) // 2)
        positions = batch * height * width
        return dict(
            linear=windows *
            (self.weights.weight.numel() + self.values.weight.numel()) +
            positions * self.proj.weight.numel(),
            attention=windows * 81 * embed_dims,
            elementwise=windows * self.weights.out_channels +
            2 * positions * embed_dims)


def _places(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The three places of windows of stride 2, padding 1, along one axis.

    Args:
        x: (B, H, W, d), even along ``dim``.
        dim: 1 or 2.
    """
    centre, after = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    # what is behind one window's centre is in front of the next one's
    before = F.pad(after, [0, 0] * (after.dim() - 1 - dim) + [1, -1])
    return before, centre, after


def _overlap_add(x: Tensor, dim: int, size: int) -> Tensor:
    """Sum windows of 3 places, stride 2, padding 1, along one axis (fold).

    Args:
        x: Windows along ``dim``, their places along axis 4.
        dim: 1 or 2.
        size: Length of the result along ``dim``.
    """
    before, centre, after = x.unbind(4)
    # Line 2n is the centre of window n. Line 2n + 1 follows it and precedes
    # the centre of window n + 1.
    following = F.pad(before, [0, 0] * (before.dim() - 1 - dim) + [-1, 1])
    lines = torch.stack((centre, after + following), dim + 1)
    return lines.flatten(dim, dim + 1).narrow(dim, 0, size)
