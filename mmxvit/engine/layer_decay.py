# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Learning rates that fall towards the image, layer by layer."""
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor

from mmxvit.registry import OPTIM_WRAPPER_CONSTRUCTORS

# decay_type -> method of the backbone, (name, prefix) -> (layer, layers)
_DEPTHS = dict(layer_wise='get_layer_depth', stage_wise='get_stage_depth')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Layer-wise or stage-wise learning rate decay of a backbone.

    The learning rate of a parameter is ``lr * decay_rate ** (n - 1 - layer)``,
    its layer, of n, as the backbone tells it: neck and heads, in the last one,
    keep ``lr``. Works with models of any task package, wrapped for
    distributed training or not, and with foreign backbones that have the
    method asked for, such as mmpretrain's with ``get_layer_depth``.

    No weight decay on biases and tensors of less than two dimensions; nor, if
    stage-wise, on tables of biases that are added to attention logits. Vectors
    in the backbone's ``decayed_vectors`` do have it. These rules are those of
    the published FcaFormer (arXiv 2211.07198).

    .. code:: python

        optim_wrapper = dict(
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            constructor='mmxvit.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(decay_rate=0.95, decay_type='layer_wise'))

    Args:
        optim_wrapper_cfg: Config of the wrapper with its ``optimizer``, which
            must name its ``lr``.
        paramwise_cfg: ``decay_rate``: in (0, 1]. ``decay_type``:
            ``'layer_wise'`` (default) asks the backbone's ``get_layer_depth``,
            ``'stage_wise'`` its ``get_stage_depth``.

    Raises:
        ValueError: Something of this is missing, unknown or out of range, or
            the model has no backbone that knows its layers.
    """

    def _validate_cfg(self) -> None:
        cfg = self.paramwise_cfg
        known = ('decay_rate', 'decay_type')
        if (not isinstance(cfg, dict) or 'decay_rate' not in cfg
                or not set(cfg) <= set(known)):
            raise ValueError(
                f'paramwise_cfg={cfg} of {type(self).__name__} must be a dict '
                f'with the keys decay_rate and, if you like, decay_type; the '
                'number of layers is read off the backbone')
        self.decay_rate = cfg['decay_rate']
        self.decay_type = cfg.get('decay_type', 'layer_wise')
        if not 0 < self.decay_rate <= 1:
            raise ValueError(f'paramwise_cfg.decay_rate={self.decay_rate} '
                             'must be above 0 and at most 1')
        if self.decay_type not in _DEPTHS:
            raise ValueError(
                f'paramwise_cfg.decay_type={self.decay_type!r} must be one of '
                f'{", ".join(map(repr, _DEPTHS))}')
        if self.base_lr is None:
            raise ValueError(f'{type(self).__name__} multiplies the learning '
                             "rate: name the optimizer's lr")

    def add_params(self, params: list[dict], module: nn.Module,
                   **kwargs: object) -> None:
        """Append the parameter groups of a model to ``params``.

        One group for each layer, with and without weight decay; beside ``lr``
        and ``weight_decay`` it has ``layer_id``, ``lr_scale`` and
        ``param_names``. Frozen parameters are in none.

        Args:
            params: Groups so far.
            module: The model; its backbone is ``module.backbone``.
            kwargs: Of the parent class, without effect.
        """
        backbone = getattr(module, 'backbone', None)
        get_depth = getattr(backbone, _DEPTHS[self.decay_type], None)
        if get_depth is None:
            raise ValueError(
                f'{self.decay_type} decay: {type(module).__name__}.backbone '
                f'({type(backbone).__name__}) has no method '
                f'{_DEPTHS[self.decay_type]}; use a backbone of mmxvit, or '
                'another constructor')
        groups: dict[tuple[int, bool], dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            layer, num_layers = get_depth(name, 'backbone.')
            decayed = self._is_decayed(name, param, backbone)
            if (layer, decayed) not in groups:
                scale = self.decay_rate**(num_layers - 1 - layer)
                group = groups[layer, decayed] = dict(
                    params=[],
                    param_names=[],
                    layer_id=layer,
                    lr_scale=scale,
                    lr=self.base_lr * scale)
                if not decayed:
                    group['weight_decay'] = 0.
                elif self.base_wd is not None:
                    group['weight_decay'] = self.base_wd
            groups[layer, decayed]['params'].append(param)
            groups[layer, decayed]['param_names'].append(name)
        for (layer, decayed), group in sorted(groups.items()):
            print_log(
                f'layer {layer}: lr x {group["lr_scale"]:.4g}, '
                f'{len(group["params"])} parameters '
                f'{"with" if decayed else "without"} weight decay',
                logger='current')
            params.append(group)

    def _is_decayed(self, name: str, param: nn.Parameter,
                    backbone: nn.Module) -> bool:
        leaf = name.rpartition('.')[2]
        if (name.startswith('backbone.')
                and leaf in getattr(backbone, 'decayed_vectors', ())):
            return True
        if self.decay_type == 'stage_wise' and leaf.endswith('_bias'):
            return False
        return param.ndim > 1 and leaf != 'bias'
