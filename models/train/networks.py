"""The networks that the stages know by name, whose a checkpoint's weights are, and the files of the dense ones."""
import numpy as np
import torch

from . import safetensors
from .airbench import Airbench, AirbenchReLU
from .net import ResNet9
from .run import load_state

NETWORKS = {"resnet9": ResNet9, "airbench": Airbench, "airbench-relu": AirbenchReLU}


def name_of(state):
    """Of the network that has these weights, looked up or dense; None if it is none of ours."""
    return next((name for name, network in NETWORKS.items() if network.SIGN in state), None)


def convertible(state):
    """The network that has these weights, looked up or dense, if it has layers to look up."""
    name = name_of(state)
    if name is None:
        raise ValueError(f"weights of none of these networks: {', '.join(NETWORKS)}")
    if not hasattr(NETWORKS[name], "INNER"):
        raise ValueError(f"weights of an {name}, which cannot be converted")
    return NETWORKS[name]


def load_teacher(path):
    """The averaged network of a checkpoint that `teacher` wrote, or of what it kept, whichever it is."""
    if path.endswith(".safetensors"):
        tensors, metadata = safetensors.read(path)
        name, state = metadata.get("network"), {n: torch.from_numpy(v.astype(np.float32)) for n, v in tensors.items()}
    else:
        state = load_state(path).get("average", {})
        name = name_of(state)
    if name not in NETWORKS or any(n.endswith(".table") for n in state):
        raise SystemExit(f"{path}: not what `teacher` writes")
    model = NETWORKS[name]()
    counters = {n: value for n, value in model.state_dict().items() if not value.is_floating_point()}
    model.load_state_dict({**counters, **state})
    return model.to(memory_format=torch.channels_last)


def keep(model, path):
    """Half the size of the averaged weights alone, and no pickle: what a repository can hold."""
    state = {n: value.half().numpy() for n, value in model.state_dict().items() if value.is_floating_point()}
    for n, value in state.items():
        if not np.isfinite(value).all():
            raise SystemExit(f"{path}: {n} does not fit into float16")
    safetensors.write(path, state, {"network": name_of(state)})
