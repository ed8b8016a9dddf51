_base_ = "default_runtime.py"

# Genotypes are what a search keeps; its supernet has no best epoch.
default_hooks = dict(checkpoint=dict(save_best=None, save_param_scheduler=False))
# The search loop reduces the gradients of a sampled path itself. The scope is needed
# here: MMEngine looks a bare name up in its own registry.
model_wrapper_cfg = dict(type="mmaction.SearchDataParallel")

# Scalars and a picture of each network found. For Weights & Biases add
# dict(type="WandbVisBackend").
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="ActionVisualizer", vis_backends=vis_backends)
