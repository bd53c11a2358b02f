"""Small networks of PyTorch, one of each kind that users bring."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, size=3, stride=1, groups=1, activation=nn.ReLU):
    layers = [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None if stride == 1 else conv(inputs, outputs, 1, stride, activation=None)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, width=8, max_pool=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if max_pool else nn.Identity()
        self.layer1 = nn.Sequential(Residual(width, width))
        self.layer2 = nn.Sequential(Residual(width, 2 * width, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


def vgg():
    features = [conv(3, 8), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(True), nn.AvgPool2d(2)]
    head = [nn.AdaptiveAvgPool2d((3, 3)), nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10)]
    return nn.Sequential(*features, *head)


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), conv(8 + 4 * i, 4)) for i in (0, 1)
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.AvgPool2d(2, 2))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        x = F.relu(self.transition(torch.cat(features, 1)), inplace=True)
        return self.head(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class SqueezeExcite(nn.Module):
    def __init__(self, width, inner=nn.SiLU, gate=nn.Sigmoid):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
        self.inner, self.gate = inner(), gate()

    def forward(self, x):
        return x * self.gate(self.fc2(self.inner(self.fc1(self.avgpool(x)))))


def inverted(activation, *excite):
    """MobileNet v2 and v3, EfficientNet: wide, by channel, squeezed, narrow."""
    middle = [conv(8, 16, 1, activation=activation), conv(16, 16, 5, 2, 16, activation), *excite]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    return nn.Sequential(conv(3, 8, activation=activation), *middle, conv(16, 8, 1, activation=None), *head)


class SqueezeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.squeeze, self.expand1, self.expand3 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.pool, self.last = nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(12, 10, 1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        x = self.pool(torch.cat([F.relu(self.expand1(x)), F.relu(self.expand3(x))], 1))
        return torch.flatten(F.adaptive_avg_pool2d(F.relu(self.last(x)), (1, 1)), 1)


class ShuffleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.head = (
            conv(3, 8),
            nn.Sequential(conv(4, 4, 1), conv(4, 4, groups=4)),
            nn.Linear(8, 10),
        )

    def forward(self, x):
        kept, other = self.stem(x).chunk(2, dim=1)
        x = torch.cat((kept, self.branch(other)), dim=1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
        return self.head(x.mean([2, 3]))


class GoogLeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch1, self.branch2 = conv(3, 4, 1), nn.Sequential(conv(3, 4, 1), conv(4, 4))
        self.branch3 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv(3, 4, 1))
        self.pool, self.head = nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Linear(12, 10)

    def forward(self, x):
        x = x[:, [2, 1, 0]] * 0.5 + torch.unsqueeze(x[:, 0], 1)
        x = self.pool(torch.cat([self.branch1(x), self.branch2(x), self.branch3(x)], 1))
        return self.head(x.mean((2, 3)))


class ConvNeXt(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8, eps=1e-6)
        self.dwconv, self.pwconv1, self.pwconv2 = (
            nn.Conv2d(8, 8, 7, padding=3, groups=8),
            nn.Linear(8, 32),
            nn.Linear(32, 8),
        )
        self.act, self.layer_scale, self.head = nn.GELU(), nn.Parameter(torch.ones(8, 1, 1) * 0.1), nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.pwconv2(self.act(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1)))))
        x = x + self.layer_scale * y.permute(0, 3, 1, 2)
        return self.head(F.layer_norm(F.adaptive_avg_pool2d(x, 1).flatten(1), (8,)))  # channels are last in memory


class VisionTransformer(nn.Module):
    def __init__(self, side=16, width=16):
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embedding = nn.Parameter(torch.randn(1, (side // 4) ** 2 + 1, width) * 0.1)
        layer = nn.TransformerEncoderLayer(width, 2, 32, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.ln, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.conv_proj(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embedding
        return self.head(self.ln(self.encoder(x))[:, 0])


class Swin(nn.Module):
    """One block of shifted windows with a bias for each relative position."""

    def __init__(self, width=8, window=2, shift=1):
        super().__init__()
        self.window, self.shift = window, shift
        self.embed, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, 2))
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        offsets = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer(
            "relative_position_index", (offsets[..., 0] * (2 * window - 1) + offsets[..., 1]).flatten()
        )
        self.reduction, self.head = nn.Linear(4 * width, 16, bias=False), nn.Linear(16, 10)

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        x = x + self.attention(self.norm(x))
        corners = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.head(F.gelu(self.reduction(torch.cat(corners, -1))).mean((1, 2)))

    def attention(self, x):
        batch, height, width, channels = x.shape
        size, shift = self.window, self.shift
        x = torch.roll(x, shifts=(-shift, -shift), dims=(1, 2))
        windows = (height // size) * (width // size)
        split = lambda x: x.view(-1, height // size, size, width // size, size, x.shape[-1]).permute(0, 1, 3, 2, 4, 5)
        x = split(x).reshape(batch * windows, size * size, channels)
        q, k, v = self.qkv(x).reshape(x.size(0), x.size(1), 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        scores = (q * (channels // 2) ** -0.5).matmul(k.transpose(-2, -1))
        bias = self.relative_position_bias_table[self.relative_position_index].view(size * size, size * size, -1)
        scores = scores + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        regions, count = x.new_zeros((height, width)), 0
        for rows in ((0, -size), (-size, -shift), (-shift, None)):
            for columns in ((0, -size), (-size, -shift), (-shift, None)):
                regions[rows[0] : rows[1], columns[0] : columns[1]] = count
                count += 1
        regions = split(regions[None, :, :, None]).reshape(windows, size * size)
        mask = regions.unsqueeze(1) - regions.unsqueeze(2)
        mask = mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)
        scores = scores.view(batch, windows, 2, size * size, size * size) + mask.unsqueeze(1).unsqueeze(0)
        x = F.softmax(scores.view(-1, 2, size * size, size * size), dim=-1).matmul(v).transpose(1, 2)
        x = self.proj(x.reshape(batch, height // size, width // size, size, size, channels))
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)
        return torch.roll(x, shifts=(shift, shift), dims=(1, 2))


class Bert(nn.Module):
    def __init__(self, words=20, width=16):
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width, padding_idx=0), nn.Embedding(12, width)
        self.register_buffer("position_ids", torch.arange(12).expand((1, -1)), persistent=False)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.query, self.key, self.value, self.dense = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow, self.pooler, self.head = (
            nn.Linear(width, 32),
            nn.Linear(32, width),
            nn.Linear(width, width),
            nn.Linear(width, 3),
        )

    def forward(self, input_ids, attention_mask):
        x = self.norm1(self.words(input_ids) + self.positions(self.position_ids[:, : input_ids.size(1)]))
        heads = lambda x: x.view(*x.shape[:2], 2, -1).permute(0, 2, 1, 3)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(x.shape)
        x = self.norm2(x + self.dense(context))
        x = x + self.narrow(F.gelu(self.wide(x), approximate="tanh"))
        return {"logits": self.head(torch.tanh(self.pooler(x[:, 0]))), "hidden": x}


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cell = kind(5, 7, batch_first=True, **options)
        self.head = nn.Linear(7 * (1 + self.cell.bidirectional), 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class CausalTransformer(nn.Module):
    """Encoder and decoder by a mask whose values say that it is causal."""

    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.transformer(x, 0.5 * x, src_mask=mask, tgt_mask=mask)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = conv(3, 8, stride=2), nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=2)
        self.norm, self.last = nn.GroupNorm(2, 4), nn.Conv2d(15, 2, 3, padding=2, dilation=2, padding_mode="reflect")

    def forward(self, x):
        low = self.down(x)
        up = F.leaky_relu(self.norm(self.up(low)), 0.1)
        nearest = F.interpolate(low, scale_factor=2.0)
        smooth = F.interpolate(x, size=(9, 9), mode="bilinear", align_corners=False)
        smooth = F.interpolate(smooth, size=x.shape[-2:], mode="bilinear", align_corners=True)
        x = torch.cat([up, F.pad(nearest[..., 1:, :], (0, 0, 1, 0)), smooth], 1)
        return F.log_softmax(F.interpolate(self.last(x), size=(5, 7), mode="nearest"), dim=1)


class Elementwise(nn.Module):
    """Functions that no block above has."""

    def forward(self, x):
        n = F.instance_norm(x) + F.local_response_norm(x, 3) + F.normalize(x, dim=1) + F.rms_norm(x, x.shape[-1:])
        a = F.elu(x) + F.selu(x) + F.celu(x) + F.mish(x) + F.softplus(x) + F.softsign(x) + F.hardshrink(x)
        a = (
            a
            + F.prelu(x, torch.full((4,), 0.1))
            + F.hardtanh(x, -0.5, 0.7)
            + F.threshold(x, 0.1, 0.2)
            + F.logsigmoid(x)
        )
        s = x.std((2, 3), keepdim=True) + x.var(1, keepdim=True) + x.amax(1, keepdim=True) + x.max(1, keepdim=True)[0]
        p = F.pixel_shuffle(x, 2).sum((-1, -2)) + F.lp_pool2d(x, 2, 2).sum((1, 2, 3))[:, None]
        e = torch.einsum("bchw,bdhw->bcd", x, x).tril() + torch.cumsum(x, 1).topk(2, 1)[0].sum((1, 2, 3))[:, None, None]
        c = torch.where(x > 0, x, 0.5 * x).masked_fill(x > 1, 2.0) + torch.clamp(x, max=0.3) + x**3 + x.abs().sqrt()
        m = F.adaptive_max_pool2d(x, (3, 2)).sum((2, 3)) + F.adaptive_avg_pool2d(x, (3, 5)).sum((2, 3))
        i = F.one_hot((x[:, :, 0, 0] > 0).long(), 4).to(x) + torch.arange(4) * torch.tensor(0.5, dtype=torch.float64)
        g = F.glu(x, 1).repeat_interleave(2, 1) + x.flip(1) + F.max_pool2d(x, 3, 1, 1, 1) + F.avg_pool2d(x, 3, 1, 1)
        b = F.interpolate(x, size=(5, 5), mode="bicubic").sum((2, 3)) + x.gather(3, x.argmax(3, keepdim=True)).sum(
            (2, 3)
        )
        return n + a + s + c + g, p, e, m, i, b


class Rare(nn.Module):
    """Operations that few networks have."""

    def forward(self, x):
        rows = torch.arange(x.shape[0])[:, None, None, None] // 2 + x / x.shape[0] ** 0.5  # integers among floats
        scans = x.cummax(1)[0] + x.cummin(1)[0] + x.logcumsumexp(1) + F.softplus(x, 2, 1) + F.rrelu(x)
        norms = [torch.linalg.vector_norm(x, ord=p, dim=1) for p in (0, 1, 3, torch.inf, -torch.inf)]
        norms += [x.median(1)[0], x.kthvalue(2, 1)[0], torch.cdist(x, x.flip(1))[:, 0]]
        special = x.erfc() + torch.hypot(x, x) + torch.copysign(x.abs(), x) + torch.fmax(x, x.flip(1)) + x.signbit()
        special = special + torch.lgamma(x.abs() + 1) + torch.erfinv(x.tanh()) + torch.ldexp(x, torch.tensor(2))
        order = x.argsort(1)
        moved = torch.zeros_like(x).scatter_add(1, order, x) + x.scatter_reduce(1, order, x, "amax")
        windows = x.unfold(2, 3, 2).sum((2, 4)) + x[:, :, *torch.tril_indices(8, 8)].sum(2, keepdim=True)
        bins = torch.bucketize(x, torch.tensor([-1.0, 0, 1])) + ((x > 0).int() << 2) + torch.cat([x > 0, x], 1)[:, :4]
        grid = torch.stack(torch.meshgrid(torch.arange(-1.1, 1, 0.5), torch.linspace(-1, 1, 6), indexing="ij"), -1)
        sampled = F.grid_sample(x, grid[None].expand(x.shape[0], -1, -1, -1), align_corners=False)
        lines = F.interpolate(x.flatten(2), size=50, mode="linear"), F.interpolate(x[:, None], size=5, mode="trilinear")
        smooth = F.interpolate(x, size=5, mode="bilinear", antialias=True)
        return rows + scans + special + moved, torch.stack(norms), windows, bins.to(x), sampled, *lines, smooth


IMAGE = (3, 16, 16)
NETWORKS = {
    "resnet": (ResNet, IMAGE),
    "vgg": (vgg, IMAGE),
    "densenet": (DenseNet, IMAGE),
    "mobilenet_v2": (lambda: inverted(nn.ReLU6), IMAGE),
    "mobilenet_v3": (lambda: inverted(nn.Hardswish, SqueezeExcite(16, nn.ReLU, nn.Hardsigmoid)), IMAGE),
    "efficientnet": (lambda: nn.Sequential(conv(3, 16, 3, 2, activation=nn.SiLU), SqueezeExcite(16)), IMAGE),
    "squeezenet": (SqueezeNet, IMAGE),
    "shufflenet": (ShuffleNet, IMAGE),
    "googlenet": (GoogLeNet, IMAGE),
    "convnext": (ConvNeXt, IMAGE),
    "vit": (VisionTransformer, IMAGE),
    "swin": (Swin, IMAGE),
    "unet": (UNet, IMAGE),
    "gru": (lambda: Recurrent(nn.GRU), (3, 5)),
    "lstm": (lambda: Recurrent(nn.LSTM, bidirectional=True), (3, 5)),
    "causal": (CausalTransformer, (3, 8)),
    "elementwise": (Elementwise, (4, 8, 8)),
    "rare": (Rare, (4, 8, 8)),
}


def build(name):
    """A network with random weights and statistics of norms, in eval mode, and the shape of its inputs."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    return randomised(make()), shape


@torch.no_grad()
def randomised(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.2, 0.5)
    return network.eval()
