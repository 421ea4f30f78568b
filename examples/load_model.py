"""Loads the net that a job left behind into PyTorch: python examples/load_model.py evoring-out/prune-fashion"""
import json, pathlib, struct, sys, torch
from torch import nn

MAKE = {
    "conv": lambda e: nn.Conv2d(e["input"][0], e["output"][0], e["kernel"], padding=e["padding"]),
    "batch-norm": lambda e: (nn.BatchNorm2d if len(e["input"]) == 3 else nn.BatchNorm1d)(e["input"][0]),
    "relu": lambda e: nn.ReLU(),
    "max-pool": lambda e: nn.MaxPool2d(e["size"]),
    "flatten": lambda e: nn.Flatten(),
    "dense": lambda e: nn.Linear(e["input"][0], e["output"][0]),
    "dropout": lambda e: nn.Dropout(e["percent"] / 100),
}

def load(folder):
    description = json.loads(pathlib.Path(folder, "model.json").read_text())
    net = nn.Sequential(*(MAKE[entry["kind"]](entry) for entry in description["layers"]))
    raw = bytearray(pathlib.Path(folder, description["weights"]).read_bytes())
    start = 8 + struct.unpack("<Q", raw[:8])[0]  # the header's length, the header, the numbers
    header, state = json.loads(raw[8:start]), net.state_dict()
    for name, shape in ((tensor["name"], tensor["shape"]) for tensor in description["tensors"]):
        begin, end = header[name]["data_offsets"]
        state[name] = torch.frombuffer(raw[start + begin : start + end], dtype=torch.float32).reshape(shape)
    net.load_state_dict(state)
    return net.eval(), description  # images enter as (value / 255 - mean) / deviation

if __name__ == "__main__":
    net, description = load(sys.argv[1])
    logits = net(torch.zeros(1, *description["input"]))
    print(f"{description['name']}: {sum(p.numel() for p in net.parameters())} parameters, logits {list(logits.shape)}")
