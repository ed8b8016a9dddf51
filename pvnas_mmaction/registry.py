"""The scope ``pvnas_mmaction``: an empty child of every registry of
``mmaction.registry``, for configs that inherit with ``_base_ = 'pvnas_mmaction::...'``:
mmengine imports this module to find that scope, and looks in the parents for what the
child does not have. It does not fill the parents: that happens here.
"""

from mmaction import registry as _mmaction_registry
from mmaction.utils import register_all_modules
from mmengine.registry import Registry

register_all_modules(init_default_scope=False)

_SCOPE = __name__.partition(".")[0]

REGISTRIES: dict[str, Registry] = {
    name: Registry(parent.name, parent=parent, scope=_SCOPE, locations=[_SCOPE])
    for name, parent in vars(_mmaction_registry).items()
    if isinstance(parent, Registry) and parent.scope == "mmaction"
}
