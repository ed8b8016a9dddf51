"""How long a search and a training take on this machine, from a few of their steps."""

from timeit import timeit

import torch
from mmaction.registry import DATASETS
from mmengine.config import Config

from ..engine.search_data import CALIBRATION_BATCHES
from ..models.supernet import PVNASSupernet
from ..search.derive import Indices
from ..search.donor_warmup import CLIPS, full_network
from ..search.schedule import num_epochs
from ..space.search_space import SearchSpace

# Forwards and backwards of the full network that it costs to judge a candidate on a
# batch: most of it need not run again.
JUDGED_BLOCK = 1 / 50
RACERS = 5


def estimate(
    search: Config,
    training: Config,
    space: SearchSpace,
    network: Indices,
    num_train: int,
    num_val: int,
    device: str,
) -> tuple[float, float]:
    """Seconds of a search, and of training one network as large as the budget lets."""
    cfg, batch = search.train_cfg, search.train_dataloader.batch_size
    dataset = DATASETS.build(search.val_dataloader.dataset)
    first, clip = (timeit(lambda: dataset[0], number=1) for _ in range(2))
    supernet = PVNASSupernet(space.to_config()).to(device).train()
    x = torch.randn(batch, *cfg.input_shape, device=device)

    def seconds_of(indices: Indices) -> float:
        path = supernet.path_of(indices)
        return timeit(lambda: supernet(x, path).mean().backward(), number=1)

    seconds_of(network)  # warms up
    own, full = seconds_of(network), 0.0
    per_epoch = max(1, num_train // 2 // batch)
    epochs = num_epochs(cfg.max_epochs, cfg.get("min_steps", 0), per_epoch)
    steps = epochs * per_epoch
    judged = 3 * cfg.get("num_ranked", 1) * (CALIBRATION_BATCHES + num_val / batch)
    total = judged * own / 3 + (num_train + num_val) * first
    if donor := cfg.get("donor"):
        # The full network is tuned, then judged with one block changed at a time; from
        # then on it runs in each step, too.
        full = seconds_of(full_network(space))
        steps -= donor.tune_steps
        blocks = JUDGED_BLOCK * sum(map(len, space.candidates))
        total += full * (donor.tune_steps + blocks * donor.get("clips", CLIPS) / batch)
    # First network, one of each cycle, the final one and the hand-designed one.
    total += RACERS * cfg.get("race_steps", 0) * (own + batch * clip)
    # A weights step and an alpha step, of two candidates in a layer.
    total += steps * (full + 2.3 * own + 2 * batch * clip)
    train = num_train * (own / batch + clip) + num_val * (own / batch / 3 + clip)
    return 1.1 * total, training.train_cfg.max_epochs * train
