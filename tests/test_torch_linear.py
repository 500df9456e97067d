"""LSSLinear beside the nn.Linear that it stands for."""

import copy
import io
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from lss_rs import Index, LSSConfig, NotFittedError  # noqa: E402
from lss_rs.torch import LSSLinear, StaleIndexWarning  # noqa: E402
from lss_rs.torch._rounding import ROUNDINGS, roundings  # noqa: E402

M, D = 300, 12
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
MPS = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Metal device here")


def linear(bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(D, M, bias=bias).to(dtype)


def queries(*shape, seed=1):
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed))


def index_of(layer, **config):
    config = LSSConfig(n_neighbors=4, teacher_top=12, **config)
    return Index.from_linear(layer, config).fit(queries(700, seed=0), k=5, target=None, progress=False)


def head_of(layer=None, mode="auto", **options):
    layer = layer or linear()
    head = LSSLinear.from_linear(layer, index_of(layer), mode, **options).eval()
    head.n_candidates = 40  # of 300: fewer than all
    return head


def answers(head, x):
    with torch.no_grad():
        return head(x)


def from_index(y):
    """Whether logits are those of candidates alone."""
    return bool((y == -torch.inf).any())


@pytest.fixture(autouse=True)
def no_stale_index():
    """A warning that no test asks for is an error anyway; this says which."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", StaleIndexWarning)
        yield


# Answers


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("path", [None, "core", "core-scan", "tables", "scan"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@settings(max_examples=15)
@given(shape=st.sampled_from([(), (1,), (5,), (3, 1), (2, 3, 1), (0,), (0, 1)]), seed=st.integers(0, 99))
def test_forward_has_the_logits_of_candidates(dtype, bias, path, device, shape, seed):
    layer = linear(bias, dtype).to(device)
    head = head_of(layer, "lss", path=path)
    head.n_candidates = 30
    x = queries(*shape, seed=seed).to(device, dtype)
    y, dense = answers(head, x), answers(layer, x)
    assert y.shape == dense.shape
    assert y.dtype == dense.dtype
    known = y > -torch.inf
    assert ((known.sum(-1) >= 5) & (known.sum(-1) < M)).all()
    torch.testing.assert_close(y[known], dense[known])
    if path in ("core", "core-scan") or (path is None and device == "cpu"):
        flat, rows = x.reshape(-1, D).float().cpu().numpy(), known.reshape(-1, M)
        for q, row in zip(flat, rows, strict=True):
            expected = head.index.search(q[None], 5, effort="adaptive").labels[0]
            assert set(expected.tolist()) <= set(torch.nonzero(row)[:, 0].tolist())


@settings(max_examples=30)
@given(shape=st.sampled_from([(), (1,), (5,), (2, 3), (0,)]), k=st.integers(1, M), seed=st.integers(0, 99))
def test_topk_is_that_of_torch(shape, k, seed):
    head = head_of()
    x = queries(*shape, seed=seed)
    values, labels = head.topk(x, k)
    dense = answers(nn.Linear.forward.__get__(head), x)
    expected = dense.topk(k, -1)
    assert labels.shape == expected.indices.shape
    torch.testing.assert_close(values, dense.gather(-1, labels))
    assert (values.diff(dim=-1) <= 0).all()
    if k == M:  # no index lists them all: the full layer answers
        torch.testing.assert_close(values, expected.values)
    assert type(head.topk(x, k)) is type(expected)


def test_topk_finds_what_the_index_finds():
    head, x = head_of(), queries(200)
    found = head.topk(x, 3)
    np.testing.assert_array_equal(found.indices.numpy(), head.index.search(x.numpy(), 3).labels)
    head.mode = "dense"
    full = answers(head, x).topk(3)
    assert torch.equal(head.topk(x, 3).indices, full.indices)
    assert (found.indices == full.indices).float().mean() > 0.8


def test_a_query_without_candidates_gets_all_logits():
    layer = linear()
    rows = LSSConfig(fill="rows", method="simhash", n_bits=10, n_tables=1, n_probes=1, sketch_bytes=0)
    index = Index.from_linear(layer, rows).fit(queries(700), target=None, progress=False)
    x = queries(60, seed=3)
    found = np.diff(index.candidates(x.numpy())[0])
    assert 0 < (found == 0).sum() < 60
    for path, always in itertools.product(("core", "tables"), ((), (3, 8))):
        head = LSSLinear.from_linear(layer, index, "lss", path=path).eval()
        head.always = always
        y, dense = answers(head, x), answers(layer, x)
        assert torch.equal(y[found == 0], dense[found == 0])
        listed = (y > -torch.inf).sum(1).numpy()[found > 0] - found[found > 0]
        assert ((listed >= 0) & (listed <= len(always))).all()
        best = head.topk(x[found == 0], 1).indices
        assert torch.equal(best, dense[found == 0].topk(1).indices)
        with head._listing(1):
            head(x[found == 0][:, None])
            assert head._listed.shape[1] == head.out_features
        if always:
            continue
        values, labels = head.topk(x, 2)
        torch.testing.assert_close(values, dense.gather(1, labels))
        torch.testing.assert_close(values[found < 2], dense.topk(2).values[found < 2])


@pytest.mark.parametrize("path", [None, "core", "core-scan", "tables", "scan"])
def test_labels_of_always_are_always_there(path):
    layer = linear()
    index = index_of(layer, always_include=(7, 299))
    head = LSSLinear.from_linear(layer, index, "lss", path=path).eval()
    head.n_candidates, head.always = 5, (0, 7, 11)
    y = answers(head, queries(50))
    assert (y[:, [0, 7, 11, 299]] > -torch.inf).all()
    torch.testing.assert_close(y[:, [0, 7, 11, 299]], answers(layer, queries(50))[:, [0, 7, 11, 299]])


# When


@pytest.mark.parametrize("mode", ["auto", "lss"])
def test_an_exact_index_leaves_it_to_the_dense_layer(mode):
    layer = linear()
    head = head_of(layer, mode)
    x = queries(5).requires_grad_()
    assert from_index(answers(head, x))
    head.index.apply(head.index.operating_point._replace(exact=True))
    assert torch.equal(answers(head, x), layer(x))
    best = layer(x).topk(60)
    assert torch.equal(head.topk(x, 60).indices, best.indices)
    head(x).sum().backward()  # as a dense layer has it, so in mode "lss"
    assert x.grad is not None


def a_parametrized(layer):
    return nn.utils.parametrizations.weight_norm(layer)


def a_weight_normed(layer):
    return torch.nn.utils.weight_norm(layer)


def a_pruned(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


def a_pruned_bias(layer):
    return prune.l1_unstructured(layer, "bias", 0.5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", [a_parametrized, a_weight_normed, a_pruned, a_pruned_bias])
def test_weights_made_of_others_are_refused(change):
    layer = change(linear())
    with pytest.raises(TypeError, match="parametrized, weight-normed or pruned"):
        LSSLinear.from_linear(layer)


@pytest.mark.parametrize(
    "hook",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_hooks_are_refused(hook):
    layer = linear()
    handle = getattr(layer, hook)(lambda *_: None)
    with pytest.raises(ValueError, match="without hooks"):
        LSSLinear.from_linear(layer)
    handle.remove()
    LSSLinear.from_linear(layer)


def test_a_forward_of_its_own_is_refused():
    layer = linear()
    layer.forward = lambda x: x
    with pytest.raises(TypeError, match="computes as one"):
        LSSLinear.from_linear(layer)


def test_auto_is_dense_where_it_should_be():
    head, x = head_of(), queries(4)
    dense = answers(nn.Linear.forward.__get__(head), x)
    assert from_index(answers(head, x))
    assert torch.equal(head(x).detach(), dense)  # the weights require a gradient
    assert not from_index(answers(head, queries(2, 3)))  # several positions of a sequence
    assert from_index(answers(head, queries(2, 1)))
    assert not from_index(answers(head, queries(head.max_positions + 1)))
    head.max_positions = 3
    assert torch.equal(answers(head, x), dense)
    head.max_positions = 4
    assert from_index(answers(head, x))
    head.train()
    assert torch.equal(answers(head, x), dense)
    head.eval().requires_grad_(False)
    assert from_index(head(x))
    assert not from_index(head(x.clone().requires_grad_()))
    with torch.inference_mode():
        assert from_index(head(x))
    head.mode = "dense"
    assert torch.equal(head(x), dense)
    head.mode = "lss"
    assert from_index(head(queries(2, 3)))
    index = head.index
    assert head.detach_index() is index
    assert head.index is None
    assert torch.equal(head(x), dense)


def test_gradients_are_those_of_the_dense_layer():
    layer = linear()
    twin = copy.deepcopy(layer)
    head = head_of(layer)
    target = torch.arange(6) * 7
    for model in (head, twin):
        nn.functional.cross_entropy(model(queries(6)), target).backward()
    assert torch.equal(head.weight.grad, twin.weight.grad)
    assert torch.equal(head.bias.grad, twin.bias.grad)


# What is kept of the layer


def test_parameters_and_state_dict_are_the_layer_s():
    layer = linear()
    head = head_of(layer)
    assert head.weight is layer.weight
    assert head.bias is layer.bias
    assert (head.in_features, head.out_features) == (D, M)
    assert isinstance(head, nn.Linear)
    assert list(head.state_dict()) == ["weight", "bias"]
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"]
    assert list(head.buffers()) == []
    nn.Linear(D, M).load_state_dict(head.state_dict())
    head.load_state_dict(layer.state_dict())
    assert from_index(answers(head, queries(3)))
    bare = LSSLinear.from_linear(linear(bias=False))
    assert list(bare.state_dict()) == ["weight"]
    assert bare.bias is None
    new = LSSLinear(D, M, bias=False, dtype=torch.bfloat16)
    assert new.weight.dtype is torch.bfloat16
    assert "mode='auto', index=Index(m=300" in repr(head)


def test_a_tied_embedding_stays_tied():
    embedding, layer = nn.Embedding(M, D), linear(bias=False)
    layer.weight = embedding.weight
    model = nn.ModuleDict({"embed": embedding, "head": head_of(layer)}).eval()
    assert model["head"].weight is model["embed"].weight
    other = copy.deepcopy(model)
    assert other["head"].weight is other["embed"].weight
    half = model.half()
    assert half["head"].weight is half["embed"].weight
    assert len(list(half.parameters())) == 1


# Stale


@pytest.mark.parametrize("write", ["optimizer", "copy", "load", "bias", "data", "replaced"])
def test_changed_weights_are_noticed_and_the_index_not_used(write):
    head, x = head_of(), queries(3)
    assert from_index(answers(head, x))
    with torch.no_grad():
        if write == "optimizer":
            head.weight.grad, head.bias.grad = torch.ones_like(head.weight), torch.zeros(M)
            torch.optim.SGD(head.parameters(), lr=1e-3).step()
        elif write == "copy":
            head.weight[17, 3] += 0.5
        elif write == "load":
            head.load_state_dict(nn.Linear(D, M).state_dict())
        elif write == "bias":
            head.bias[5] = 9.0
        elif write == "data":
            head.weight.data = head.weight.data * 2
        else:
            head.weight = nn.Parameter(torch.randn(M, D))
    with pytest.warns(StaleIndexWarning, match="not those that the index was made from"):
        y = answers(head, x)
    assert torch.equal(y, answers(nn.Linear.forward.__get__(head), x))
    assert torch.equal(answers(head, x), y)  # said once
    assert torch.equal(head.topk(x, 4).values, y.topk(4).values)
    head.attach(index_of(head))
    assert from_index(answers(head, x))


def test_what_goes_past_the_fingerprint_is_found_by_a_check():
    head, x = head_of(), queries(3)
    assert head.check()
    head.weight.data[0, 0] += 1
    with pytest.warns(StaleIndexWarning):
        assert not head.check()
    assert not from_index(answers(head, x))
    head.weight.data[0, 0] -= 1
    head.weight.data.copy_(linear().weight.data)
    assert head.check()
    assert from_index(answers(head, x))


def test_an_index_of_other_weights_is_not_used():
    layer = linear()
    other = nn.Linear(D, M)
    with pytest.warns(StaleIndexWarning):
        head = LSSLinear.from_linear(layer, index_of(other)).eval()
    assert torch.equal(answers(head, queries(3)), answers(layer, queries(3)))
    no_bias = linear(bias=False)
    with pytest.warns(StaleIndexWarning):
        LSSLinear.from_linear(no_bias, index_of(layer))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "moves", [["half"], ["bfloat16"], ["half", "float"], ["bfloat16", "half"], ["double"]]
)
def test_rounding_is_no_change(moves, dtype):
    layer = linear()
    head = LSSLinear.from_linear(layer, index_of(layer, dtype=dtype), "lss").eval()
    head.n_candidates = 40
    for move in moves:
        getattr(head, move)()
    x = queries(4).to(head.weight.dtype)
    y = answers(head, x)
    assert y.dtype == head.weight.dtype
    assert from_index(y)
    known = y > -torch.inf
    torch.testing.assert_close(
        y[known], answers(nn.Linear.forward.__get__(head), x)[known], atol=0.05, rtol=0.05
    )
    with torch.no_grad():
        head.weight[3] *= 1.5
    with pytest.warns(StaleIndexWarning):
        answers(head, x)


ROUNDED = [
    (),
    ("half",),
    ("bfloat16",),
    ("half", "float"),
    ("bfloat16", "float"),
    ("bfloat16", "half"),
    ("bfloat16", "half", "double"),
]


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("moves", ROUNDED, ids="-".join)
def test_one_unit_in_the_last_place_is_a_change(moves, dtype, loaded):
    layer = linear()
    index = index_of(layer, dtype=dtype)
    head = LSSLinear.from_linear(layer, None if loaded else index)
    for move in moves:
        getattr(head, move)()
    if loaded:  # as of a model that was rounded before it got its index
        head.attach(index)
    assert head.check()
    # Of two numbers of a finer half, an index does not know which one the weight was nearer to.
    first = [
        {"half": "float16", "bfloat16": "bfloat16"}[move] for move in moves if move in ("half", "bfloat16")
    ][:1]
    steps = 2 if dtype != "float32" and first not in ([], [dtype]) else 1
    stored, given = getattr(torch, dtype), head.weight.dtype
    # Nor does it know what it has rounded away itself.
    step_in = stored if torch.finfo(given).eps < torch.finfo(stored).eps else given
    weight = head.weight.data.clone()
    rng = np.random.default_rng(0)
    for _ in range(20):
        at = (int(rng.integers(M)), int(rng.integers(D)))
        for towards in (-torch.inf, torch.inf):
            value = weight[at].to(step_in)
            for _ in range(steps):
                value = neighbour(value, towards)
            changed = weight.clone()
            changed[at] = value
            head.weight.data.copy_(changed)
            with pytest.warns(StaleIndexWarning):
                assert not head.check()
    head.weight.data.copy_(weight)
    assert head.check()


def test_what_was_nothing_is_not_something_now():
    layer = linear()
    with torch.no_grad():
        layer.weight[7] = 0
    for dtype in ("bfloat16", "float16"):
        head = LSSLinear.from_linear(copy.deepcopy(layer), index_of(layer, dtype=dtype)).half().eval()
        assert head.check()
        head.weight.data[7, 2] = 1e-4
        with pytest.warns(StaleIndexWarning):
            assert not head.check()


def test_from_a_finer_half_to_that_of_an_index_is_a_change():
    layer = linear()
    head = LSSLinear.from_linear(layer, index_of(layer, dtype="bfloat16")).half()
    assert head.check()
    head.bfloat16()
    with pytest.warns(StaleIndexWarning):
        assert not head.check()


def neighbour(x, towards):
    """The next number of its dtype."""
    if x.dtype in (torch.float32, torch.float64):
        return torch.nextafter(x, torch.tensor(towards, dtype=x.dtype))
    up = (towards > 0) == (x > 0)  # numbers of one sign are in the order of their bits
    return (x.view(torch.int16) + (1 if up else -1)).view(x.dtype)


def test_roundings_are_those_of_an_order():
    rows = torch.randn(4, 500, generator=torch.Generator().manual_seed(3))
    for way in ROUNDINGS:
        weights = rows
        for dtype in way:
            weights = weights.to(dtype)
        for dtype in (*way[-1:], torch.float32):
            assert way in roundings(weights.to(dtype), rows, torch.float32, ROUNDINGS)
    assert roundings(rows, rows, torch.float32, ROUNDINGS) == [()]
    assert roundings(rows.half().float(), rows, torch.float32, ROUNDINGS) == [(torch.float16,)]
    assert roundings(rows.half(), rows, torch.float32, [(torch.bfloat16,)]) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_has_its_dtype(dtype):
    head, x = head_of(mode="lss"), queries(4)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        y, values = head(x), head.topk(x, 3).values
        dense = linear()(x)
    assert y.dtype is values.dtype is dense.dtype is dtype
    assert from_index(y)
    known = y > -torch.inf
    torch.testing.assert_close(y[known], dense[known], atol=0.05, rtol=0.05)
    assert answers(head, x).dtype is torch.float32


# Keeping, copying, moving


def same(head, other, x):
    y, z = answers(head, x), answers(other, x)
    assert from_index(y)
    assert torch.equal(y, z)


def test_copies_and_files_carry_the_index(tmp_path):
    head, x = head_of(mode="lss"), queries(4)
    head.n_candidates, head.always = 9, (3,)
    same(head, copy.deepcopy(head), x)
    same(head, copy.copy(head), x)
    same(head, pickle.loads(pickle.dumps(head)), x)
    torch.save(head, tmp_path / "head.pt")
    same(head, torch.load(tmp_path / "head.pt", weights_only=False), x)
    other = copy.deepcopy(head)
    assert other.index is not head.index
    with torch.no_grad():
        other.weight += 1
    with pytest.warns(StaleIndexWarning):
        answers(other, x)
    same(head, head, x)  # what happens to a copy happens to it alone
    buffer = io.BytesIO()
    torch.save(head.state_dict(), buffer)
    assert len(buffer.getvalue()) < 2 * 4 * M * D  # no index in there


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA), pytest.param("mps", marks=MPS)])
def test_a_device_move_takes_the_index_along(device):
    head, x = head_of(mode="lss"), queries(4)
    y = answers(head, x)
    moved = copy.deepcopy(head).to(device)
    z = answers(moved, x.to(device)).cpu()
    known = (y > -torch.inf) & (z > -torch.inf)
    assert from_index(z)
    torch.testing.assert_close(y[known], z[known])
    # A scan scores a thousand rows: here, all.
    torch.testing.assert_close(moved.topk(x.to(device), 3).values.cpu(), answers(linear(), x).topk(3).values)
    same(head, moved.cpu(), x)


def test_a_move_to_nowhere_and_back():
    head = head_of(mode="lss")
    moved = copy.deepcopy(head).to("meta")
    assert moved(queries(3).to("meta")).shape == (3, M)
    moved.to_empty(device="cpu")
    moved.load_state_dict(head.state_dict())
    same(head, moved, queries(3))


def test_shared_memory():
    head, x = head_of(mode="lss"), queries(4)
    y = answers(head, x)
    head.share_memory()
    assert head.weight.is_shared()
    assert torch.equal(answers(head, x), y)


class Answered(Dataset):
    def __init__(self, head):
        self.head = head

    def __len__(self):
        return 6

    def __getitem__(self, i):
        with torch.no_grad():
            return self.head(queries(1, seed=i))[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader_answer(start):
    if start == "fork" and sys.platform == "win32":
        pytest.skip("no fork here")
    head = head_of(mode="lss")
    head.share_memory()
    expected = torch.cat([answers(head, queries(1, seed=i)) for i in range(6)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, since Python 3.12
        loader = DataLoader(Answered(head), batch_size=3, num_workers=1, multiprocessing_context=start)
        found = torch.cat(list(loader))
    assert torch.equal(found, expected)


COMPILED = [
    ("auto", "eager"),
    ("lss", "eager"),
    ("dense", "eager"),
    pytest.param("lss", "inductor", marks=pytest.mark.skipif(not shutil.which("g++"), reason="no C++ here")),
]


@pytest.mark.parametrize(("mode", "backend"), COMPILED)
def test_it_compiles(mode, backend):
    # In a process of its own: what dynamo warns of, and keeps, is its own affair.
    code = f"""
import torch
from test_torch_linear import D, answers, from_index, head_of, queries

mode = {mode!r}
head = head_of(mode=mode)
model = torch.nn.Sequential(torch.nn.Linear(D, D), head).eval()
compiled = torch.compile(model, backend={backend!r})
for x in (queries(3), queries(3), queries(2, 1), queries(2, 3)):
    y = answers(compiled, x)
    expected = answers(model, x)
    assert torch.equal(y > -torch.inf, expected > -torch.inf)
    torch.testing.assert_close(y, expected)
    several = x.dim() > 2 and x.shape[1] > 1
    assert from_index(y) == (mode == "lss" or mode == "auto" and not several)
if mode != "lss":
    compiled(queries(3)).sum().backward()
    assert head.weight.grad is not None
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr


# What does not fit


class Adapted(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_what_does_not_fit_is_named():
    layer = linear()
    index, head = index_of(layer), head_of(layer)
    for make, error, text in [
        (lambda: LSSLinear.from_linear(nn.Conv1d(1, 1, 1)), TypeError, "'linear' must be a torch.nn.Linear"),
        (lambda: LSSLinear.from_linear(Adapted(D, M)), TypeError, "that computes as one.*Got a Adapted"),
        (lambda: LSSLinear.from_linear(layer, mode="fast"), ValueError, "'mode' must be 'auto', 'lss' or"),
        (
            lambda: LSSLinear.from_linear(layer, path="gpu"),
            ValueError,
            "'path' must be 'tables', 'scan', 'core' or 'core-scan', or",
        ),
        (lambda: setattr(head, "mode", None), ValueError, "'mode' must be"),
        (lambda: setattr(head, "path", "gpu"), ValueError, "'path' must be"),
        (lambda: head.attach(3), TypeError, "'index' must be an Index. Got a int"),
        (lambda: head.attach(Index.from_linear(layer)), NotFittedError, "call fit first"),
        (lambda: LSSLinear(D, M + 1).attach(index), ValueError, "'index' must be of 301 rows of 12. Got 300"),
        (lambda: head.topk(queries(2), M + 1), ValueError, "'k' must be at most 300"),
        (lambda: head.topk(queries(2), 0), ValueError, "'k' must be an int >= 1"),
        (lambda: answers(head, queries(2) / 0), ValueError, "'q' must be finite"),
    ]:
        with pytest.raises(error, match=text):
            make()
