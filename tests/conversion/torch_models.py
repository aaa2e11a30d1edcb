"""An independent torch implementation of torchvision's ResNets and of the classifiers of the published MRL code."""

import torch
from torch import nn

ROW = torch.tensor([1.0, 2.0, 1.0])


class Blurred(nn.Module):
    """A convolution behind a fixed blur, named as the published code names it."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.register_buffer("blur_filter", (torch.outer(ROW, ROW) / 16).repeat(conv.in_channels, 1, 1, 1))

    def forward(self, x):
        return self.conv(nn.functional.conv2d(x, self.blur_filter, padding=1, groups=self.conv.in_channels))


def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class Block(nn.Module):
    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        plan = (
            [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
            if bottleneck
            else [(width, 3, stride), (width, 3, 1)]
        )
        self.depth, before = len(plan), inputs
        for i, (outputs, size, step) in enumerate(plan, 1):
            setattr(self, f"conv{i}", conv(before, outputs, size, step))
            setattr(self, f"bn{i}", nn.BatchNorm2d(outputs))
            before = outputs
        self.outputs = before
        if stride > 1 or inputs != before:
            self.downsample = nn.Sequential(conv(inputs, before, 1, stride), nn.BatchNorm2d(before))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y if i == self.depth else y.relu()
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class ResNet(nn.Module):
    def __init__(self, depths, bottleneck, width, fc):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                blocks.append(Block(inputs, width * 2**stage, 2 if stage and not i else 1, bottleneck))
                inputs = blocks[-1].outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = fc

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class Nested(nn.Module):
    """A classifier per dim; with `tied`, one for all of them, today's layout of MRL-E."""

    def __init__(self, dims, classes, tied=False):
        super().__init__()
        self.dims, self.tied = dims, tied
        for i, m in enumerate(dims[-1:] if tied else dims):
            setattr(self, f"nesting_classifier_{i}", nn.Linear(m, classes))

    def forward(self, z):
        if not self.tied:
            return [getattr(self, f"nesting_classifier_{i}")(z[:, :m]) for i, m in enumerate(self.dims)]
        only = self.nesting_classifier_0
        return [z[:, :m] @ only.weight[:, :m].T + only.bias for m in self.dims]


class Tied(nn.Linear):
    """MRL-E as in the released weights: the classifier itself is the matrix that all dims share."""

    def __init__(self, dims, classes):
        super().__init__(dims[-1], classes)
        self.dims = dims

    def forward(self, z):
        return [z[:, :m] @ self.weight[:, :m].T + self.bias for m in self.dims]


class Fixed(nn.Linear):
    """FF-k: a classifier of the first k features."""

    def forward(self, z):
        return [super().forward(z[:, : self.in_features])]


def blur(module):
    """Puts the blur before each strided convolution of 16 or more channels."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and max(child.stride) > 1 and child.in_channels >= 16:
            setattr(module, name, Blurred(child))
        else:
            blur(child)


def randomise(model, seed=0):
    """Every parameter and statistic random, of a size that keeps the activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point() and not name.endswith("blur_filter"):
            fan_in = max(tensor[0].numel(), 1) if tensor.ndim > 1 else 25
            tensor.normal_(0, fan_in**-0.5, generator=generator)
    return model.eval()
