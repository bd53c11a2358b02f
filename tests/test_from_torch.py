"""Networks of PyTorch compute in JAX what they compute there, and convert under the names of their modules."""

import io
import re
import warnings
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs

torch = pytest.importorskip("torch")
import torch_blocks  # noqa: E402
from torch import nn  # noqa: E402

from gnsnn_jax.interop import aten  # noqa: E402


def images(batch, shape, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def resnet():
    """A residual network of PyTorch, images, and both of `from_torch`."""
    module, shape = torch_blocks.build("resnet")
    x = images(16, shape)
    return module, x, *gs.from_torch(module, x[:1])


@torch.no_grad()
def assert_same(module, apply, variables, *inputs):
    """Outputs of both agree to 1e-4 of the largest."""
    wanted = module(*map(torch.as_tensor, inputs))
    found = jax.jit(apply)(variables, *inputs)
    leaves = wanted.values() if isinstance(wanted, dict) else wanted if isinstance(wanted, tuple) else [wanted]
    others = [found[name] for name in wanted] if isinstance(wanted, dict) else jax.tree.leaves(found)
    for want, got in zip(leaves, others, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("name", [name for name in torch_blocks.NETWORKS if name != "resnet"])
def test_outputs_are_those_of_pytorch_for_batches_of_any_length(name):
    module, shape = torch_blocks.build(name)
    assert_same(module, *gs.from_torch(module, images(1, shape)), images(3, shape, 1))


def test_inputs_of_words_and_masks_and_outputs_in_a_dictionary():
    module = torch_blocks.Bert().eval()
    words = np.random.default_rng(0).integers(0, 20, (3, 7)).astype(np.int32)
    mask = (np.arange(7) < np.array([[3], [7], [5]])).astype(np.int32)
    apply, variables = gs.from_torch(module, words[:2], mask[:2])
    assert_same(module, apply, variables, words, mask)
    assert set(apply(variables, words, mask)) == {"logits", "hidden"}


def test_attention_by_a_mask_that_leaves_nothing_gives_zeros_and_heads_may_share_keys():
    class Attention(nn.Module):
        def forward(self, x, mask):
            attend = nn.functional.scaled_dot_product_attention
            return attend(x, x[:, :2], x[:, :2], mask, enable_gqa=True) + attend(x, x, x, is_causal=True, scale=0.3)

    mask = np.array([[True, False], [False, False]])
    apply, variables = gs.from_torch(Attention().eval(), images(2, (4, 2, 3)), mask)
    assert_same(Attention(), apply, variables, images(2, (4, 2, 3), 1), mask)


def test_variables_have_the_names_of_state_dict_and_are_arguments(resnet):
    module, x, apply, variables = resnet
    x = x[:3]
    assert_same(module, apply, variables, x)
    floats = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    assert variables.keys() == floats.keys()
    for name, value in floats.items():
        np.testing.assert_array_equal(variables[name], value)
    changed = {name: 2 * value if name == "fc.weight" else value for name, value in module.state_dict().items()}
    wanted = 2 * apply(variables, x) - variables["fc.bias"][None]
    np.testing.assert_allclose(apply(changed, x), wanted, atol=1e-5)
    gradient = jax.grad(lambda variables: apply(variables, x).sum())(variables)
    assert all(np.isfinite(each).all() for each in gradient.values())
    assert float(jnp.abs(gradient["conv1.weight"]).max()) > 0
    with pytest.raises(gs.InputError, match=r"variables lack conv1\.weight"):
        apply({name: value for name, value in variables.items() if name != "conv1.weight"}, x)


def test_a_residual_network_becomes_a_spiking_one_under_the_names_of_its_modules(resnet):
    _, x, apply, variables = resnet
    sites = gs.sites(apply, variables, x)
    assert {site.kind for site in sites} == {"relu"}
    blocks = ["layer1/0", "layer2/0"]
    assert [site.name for site in sites] == ["relu", *(f"{block}/relu{n}" for block in blocks for n in ("", "#2"))]
    thresholds = gs.find_thresholds(apply, [x], levels=32, variables=variables)
    snn = gs.to_spiking(apply, gs.group_neuron(32), steps=2, thresholds=thresholds)
    verification = gs.verify(apply, snn, [x], variables=variables)
    assert verification.agreement[-1] == 1
    assert verification.error[-1] < 0.05


def test_activations_are_found_whatever_they_are_called():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
            self.relu6, self.tanh = nn.ReLU6(), nn.Hardtanh(0, 2)

        def forward(self, x):
            x = self.tanh(self.layers[1](self.relu6(self.layers[0](x))))
            x = self.layers[2](x).clamp(min=0)
            x = torch.clamp(self.layers[3](x), 0, 3)
            return self.layers[5](nn.functional.relu(self.layers[4](x)))

    x = images(2, (4,))
    sites = gs.sites(*gs.from_torch(Network().eval(), x), x)
    assert [(site.kind, site.threshold) for site in sites] == [
        ("clip", 6), ("clip", 2), ("relu", None), ("clip", 3), ("relu", None)
    ]  # fmt: skip
    assert [site.name for site in sites[:2]] == ["relu6", "tanh"]


def test_a_transformer_gets_encoders_named_after_its_modules():
    module, shape = torch_blocks.build("vit")
    x = images(2, shape)
    sites = gs.sites(*gs.from_torch(module, x), x)
    assert {site.kind for site in sites} == {"encoder"}
    assert any(site.name.startswith("encoder/layers/0/linear1") for site in sites)


def test_a_batch_of_fixed_length_is_said_and_checked():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 12)

    with pytest.warns(UserWarning, match="fixed the first axis of x at 2"):
        apply, variables = gs.from_torch(Fixed().eval(), images(2, (3, 4)))
    assert apply(variables, images(2, (3, 4))).shape == (2, 12)
    with pytest.raises(gs.InputError, match=r"input x must have the shape \[2, 3, 4\] of the example, got \[3, 3, 4\]"):
        apply(variables, images(3, (3, 4)))


def test_other_inputs_than_those_of_the_example_are_refused():
    apply, variables = gs.from_torch(nn.Linear(3, 2).eval(), images(2, (3,)))
    with pytest.raises(gs.InputError, match=r"shape \[any, 3\] of the example, got \[2, 4\]"):
        apply(variables, images(2, (4,)))
    with pytest.raises(gs.InputError, match="takes 1 positional argument after its variables"):
        apply(variables, images(2, (3,)), images(2, (3,)))


def test_exported_programs_and_their_files_are_read(tmp_path):
    module, shape = torch_blocks.build("squeezenet")
    example = torch.as_tensor(images(2, shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own use of what it has deprecated
        program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        torch.export.save(program, tmp_path / "network.pt2")
    for source in (program, tmp_path / "network.pt2", str(tmp_path / "network.pt2")):
        assert_same(module, *gs.from_torch(source), images(3, shape, 1))


class Inner(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x) + torch.special.bessel_j1(x)


def test_unknown_operations_are_listed_with_module_file_and_line_and_can_be_added(monkeypatch):
    module, x = nn.Sequential(nn.Linear(3, 3), Inner()).eval(), images(2, (3,))
    line = Inner.forward.__code__.co_firstlineno + 1
    with pytest.raises(gs.InputError, match="does not know 2 of the network's operations") as error:
        gs.from_torch(module, x)
    for name in ("special_bessel_j0", "special_bessel_j1"):
        assert f"{name} in 1 ({__file__}:{line})" in str(error.value)
    monkeypatch.setitem(aten.OPERATIONS, "special_bessel_j0", jnp.sin)
    monkeypatch.setitem(aten.OPERATIONS, "special_bessel_j1", jnp.cos)
    apply, variables = gs.from_torch(module, x)
    linear = x @ variables["0.weight"].T + variables["0.bias"][None]
    np.testing.assert_allclose(apply(variables, x), jnp.sin(linear) + jnp.cos(linear), atol=1e-6)


class PicksBySpikes(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.second(x).gather(1, x.argmax(1, keepdim=True))


def test_what_does_not_convert_is_refused_with_the_line_of_the_module():
    x = images(2, (3,))
    apply, variables = gs.from_torch(PicksBySpikes().eval(), x)
    snn = gs.to_spiking(apply, gs.group_neuron(4), steps=2, thresholds={gs.sites(apply, variables, x)[0].name: 1.0})
    with pytest.raises(gs.InputError, match=f"{__file__}:{PicksBySpikes.forward.__code__.co_firstlineno + 2}: gather"):
        snn(variables, x)


def test_norms_fold_into_the_layers_before_them(resnet):
    layers = [nn.ConvTranspose2d(3, 6, 3, 2, 1, groups=3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()]
    layers += [nn.Linear(6 * 9, 5, bias=False), nn.BatchNorm1d(5)]
    module = torch_blocks.randomised(nn.Sequential(*layers))
    torch.nn.init.uniform_(module[-1].running_mean)
    other = images(3, (3, 2, 2))
    for x, apply, variables in (resnet[1:], (other, *gs.from_torch(module, other))):
        folded = gs.fold_batch_norm(apply, variables, x)
        norms = [name.rpartition(".")[0] for name in variables if name.endswith("running_var")]
        for norm in norms:
            assert not np.asarray(folded[f"{norm}.running_mean"]).any()
            scale = folded[f"{norm}.weight"] / np.sqrt(folded[f"{norm}.running_var"] + np.float32(1e-5))
            np.testing.assert_allclose(scale, 1, rtol=1e-5)
        assert len(norms) in (2, 6)
        np.testing.assert_allclose(apply(folded, x), apply(variables, x), atol=1e-5)


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def changed(archive, path, name, change):
    """A copy of an archive with what `change` makes of one of its files, an empty one where there is none."""
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(path, "w") as after:
        names = before.namelist()
        for each in {*names, f"{names[0].split('/')[0]}/{name}"}:
            content = before.read(each) if each in names else b""
            after.writestr(each, change(content) if each.endswith(f"/{name}") else content)
    return path


def test_files_that_would_run_code_are_refused(tmp_path):
    module, seen = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), tmp_path / "seen"
    free = ({0: torch.export.Dim("batch")},)
    good = tmp_path / "good.pt2"
    torch.export.save(torch.export.export(module, (torch.ones(2, 3),), dynamic_shapes=free), good)
    assert_same(module, *gs.from_torch(good), images(4, (3,)))
    pickled = io.BytesIO()
    torch.save((Runs(seen),), pickled)
    evaluated = f"open('{seen}', 'w')"
    weights = "data/weights/model_weights_config.json"
    replaced = lambda old, new: lambda content: content.replace(old.encode(), new.encode())
    for name, change, what in [
        ("models/model.json", replaced("torch.ops.aten.relu.default", "torch.os.system"), "a call of torch.os.system"),
        ("models/model.json", replaced("torch.ops.aten.relu.default", "torch.ops.load_library"), "torch.ops.load"),
        ("models/model.json", replaced("torch.ops.aten.relu.default", "_operator.call"), "a call of _operator.call"),
        (
            "models/model.json",
            lambda content: re.sub(rb"Symbol\(.*?\)", lambda _: evaluated.encode(), content),
            "the expression",
        ),
        (weights, replaced('"use_pickle": false', '"use_pickle": true'), "the pickled object 0.weight"),
        ("data/sample_inputs/model.pt", lambda _: pickled.getvalue(), "an example input of pickled objects"),
        ("data/weights/model.pt", lambda _: pickled.getvalue(), "pickled weights of an older format"),
        ("data/aotinductor/model/model.so", lambda _: b"code", "a compiled library"),
    ]:
        bad = changed(good, tmp_path / "bad.pt2", name, lambda content, change=change: change(content))
        with pytest.raises(gs.InputError, match=rf"bad\.pt2 may run code .*{what}.* torch\.export\.load"):
            gs.from_torch(bad)
    assert not seen.exists()


class Decides(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_decisions_by_values_are_refused_in_one_sentence(capfd):
    line = Decides.forward.__code__.co_firstlineno + 1
    with pytest.raises(gs.InputError, match=rf"{__file__}:{line}\): its code decides by the values of a tensor"):
        gs.from_torch(Decides().eval(), images(2, (3,)))
    assert capfd.readouterr() == ("", "")


def test_refusals_say_what_to_do(tmp_path):
    x = images(2, (3,))
    with pytest.raises(gs.InputError, match=r"training mode; call module\.eval"):
        gs.from_torch(nn.Sequential(nn.Linear(3, 3), nn.Dropout()), x)
    with pytest.raises(gs.InputError, match="needs an example of each input"):
        gs.from_torch(nn.Linear(3, 3).eval())
    with pytest.raises(gs.InputError, match=r"takes a torch.nn.Module, .* got 3"):
        gs.from_torch(3)
    with pytest.raises(gs.InputError, match="there is no file"):
        gs.from_torch(tmp_path / "none.pt2")
    (tmp_path / "bad.pt2").write_bytes(b"no archive")
    with pytest.raises(gs.InputError, match=r"bad\.pt2 cannot be read .* it is damaged"):
        gs.from_torch(tmp_path / "bad.pt2")
    torch.save(nn.Linear(3, 3), tmp_path / "module.pt")
    with pytest.raises(gs.InputError, match=r"from a file of torch\.save give the module itself"):
        gs.from_torch(tmp_path / "module.pt")
    with pytest.raises(gs.InputError, match=r"torch\.export could not export the module"):
        gs.from_torch(nn.Linear(4, 3).eval(), x)
    apply, variables = gs.from_torch(nn.Linear(3, 3).eval(), x)
    with pytest.raises(gs.InputError, match=r"of a loader with labels give \(x for x, _ in loader\)"):
        gs.find_thresholds(apply, [[torch.ones(2, 3), torch.ones(2)]], levels=4, variables=variables)


def test_indices_of_max_pooling_are_refused_with_their_place():
    class Unpooled(nn.Module):
        def forward(self, x):
            return nn.functional.max_unpool2d(*nn.functional.max_pool2d(x, 2, return_indices=True), 2)

    x = images(2, (1, 4, 4))
    apply, variables = gs.from_torch(Unpooled().eval(), x)
    with pytest.raises(gs.InputError, match=r"getitem in Unpooled .* of max-pooling there are no indices"):
        apply(variables, x)


def test_half_precision_stays_half_precision():
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).to(torch.bfloat16).eval()
    x = torch.as_tensor(images(2, (3,))).to(torch.bfloat16)
    apply, variables = gs.from_torch(module, x)
    found = apply(variables, jnp.asarray(x.float().numpy(), jnp.bfloat16))
    assert found.dtype == variables["0.weight"].dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), module(x).detach().float().numpy(), atol=0.02)
