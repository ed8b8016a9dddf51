_base_ = "mmaction::_base_/default_runtime.py"

custom_imports = dict(imports=["pvnas_mmaction"], allow_failed_imports=False)
# Learning rates and the mean of the loss are what one looks at in a log.
log_processor = dict(type="LogProcessor", window_size=20, by_epoch=True)
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=2),
    sync_buffers=dict(type="SyncStatisticsHook"),
)
