"""A drop-in for ``nn.Linear`` that answers from an index."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from lss_rs._arrays import as_count, message
from lss_rs.index import Index
from lss_rs.torch._rounding import ROUNDINGS, Roundings, roundings
from lss_rs.torch.scorer import CANDIDATES, CHUNK_BYTES, DTYPES, PATHS, Path, Scorer, _scans

if TYPE_CHECKING:
    from typing_extensions import Self

Mode = Literal["auto", "lss", "dense"]

_POSITIONS = 64
"""Positions at a time from which on mode "auto" is dense."""
_BLOCK = 4096
"""Rows compared at a time."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class StaleIndexWarning(UserWarning):
    """The weights are not those that the index was made from: it is not used."""


class LSSLinear(nn.Linear):  # type: ignore[misc]
    """An ``nn.Linear`` that can answer from an index.

    Parameters, their names and shapes, tying and ``state_dict`` are those of the layer it stands for; the
    index is no part of the state dict, but pickles and copies have it. Without an index, or with one whose
    rows are not the weights or whose operating point is exact, it is a plain ``nn.Linear``.

    Gradients flow through the dense layer alone, and are exact there: an index does not train a head.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    device : torch.device or str, optional
    dtype : torch.dtype, optional
        As for ``nn.Linear``; :meth:`from_linear` takes over a layer that is there.

    Attributes
    ----------
    n_candidates : int
        Labels that a forward pass scores a query, at most, but by path "tables"; 4,096.
    max_positions : int
        Mode "auto" is dense for more positions in one call; 64.
    always : tuple of int
        Labels that are scored for every query, besides those of the index's ``always_include``.

    Examples
    --------
    >>> import torch
    >>> from lss_rs import Index
    >>> from lss_rs.torch import LSSLinear
    >>> _ = torch.manual_seed(0)
    >>> linear, Q = torch.nn.Linear(16, 1000), torch.randn(2000, 16)
    >>> index = Index.from_linear(linear).fit(Q, k=5, progress=False)
    >>> head = LSSLinear.from_linear(linear, index).eval()
    >>> head.weight is linear.weight
    True
    >>> with torch.no_grad():
    ...     y = head(Q[:2])
    >>> y.shape, bool((y.argmax(1) == linear(Q[:2]).argmax(1)).all())
    (torch.Size([2, 1000]), True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._begin("auto", None)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        index: Index | None = None,
        mode: Mode = "auto",
        *,
        path: Path | None = None,
    ) -> Self:
        """Take over a layer: its very parameters, so that what is tied stays tied.

        Parameters
        ----------
        linear : nn.Linear
        index : Index, optional
            Over the layer's rows; :meth:`attach` gives one later.
        mode : {"auto", "lss", "dense"}
            "auto": dense where it trains, a gradient is needed, a sequence has several positions (a prompt, a
            loss, the verifying of drafts) or there are more than ``max_positions``; from the index elsewhere.
            "lss": from the index wherever it is sound. "dense": never.
        path : {"core", "core-scan", "tables", "scan"}, optional
            As for :class:`Scorer`. By default, for weights on the CPU "core" where :meth:`topk` asks, as
            :meth:`Index.search` would answer, and "core-scan" for what chooses among logits; "scan" on other
            devices. An index without sketches answers by "core", and there by "tables"; of rows, by "core".

        Raises
        ------
        TypeError, ValueError
            If it is no linear layer, or one that computes in another way, has hooks or makes its weights of
            other parameters (parametrized, weight-normed, pruned), mode or path is none of these, or as
            :meth:`attach`.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(message("linear", "a torch.nn.Linear", f"a {type(linear).__name__}"))
        # Its class's, or one that was put on the layer itself.
        own = getattr(linear.forward, "__func__", None) not in (nn.Linear.forward, LSSLinear.forward)
        if own or not linear.weight.is_floating_point():  # such as a quantized or an adapted layer
            expected = "a torch.nn.Linear that computes as one, with weights of floats"
            raise TypeError(message("linear", expected, f"a {type(linear).__name__}"))
        own_parameters = {"weight"} if linear.bias is None else {"weight", "bias"}
        if not own_parameters <= linear._parameters.keys():  # what makes them would be left behind
            expected = "a torch.nn.Linear whose weight and bias are its parameters"
            raise TypeError(message("linear", expected, "one that is parametrized, weight-normed or pruned"))
        if any(getattr(linear, name) for name in _HOOKS):
            raise ValueError(message("linear", "a torch.nn.Linear without hooks", "one with a hook on it"))
        head: Self = cls.__new__(cls)
        nn.Module.__init__(head)
        head.in_features, head.out_features = linear.in_features, linear.out_features
        head.weight, head.bias = linear.weight, linear.bias
        head.train(linear.training)
        head._begin(mode, path)
        if index is not None:
            head.attach(index)
        return head

    def _begin(self, mode: Mode, path: Path | None) -> None:
        self.mode, self.path = mode, path
        self.n_candidates, self.max_positions = CANDIDATES, _POSITIONS
        self.always: tuple[int, ...] = ()
        # What a generation asks for besides: its special tokens may be none of the model's.
        self._called: tuple[int, ...] = ()
        self._index: Index | None = None
        self._checked: tuple[Any, ...] | None = None
        self._sound = False
        self._scorers: tuple[tuple[Any, ...], dict[Path, Scorer]] | None = None
        # Between a patched model and its output layer: whether it wants to know of what labels a forward pass
        # gave logits, and which these were; whether it wants all of them, for a loss, or while it generates;
        # whether it was seen to treat all logits alike; whether it wants some alone, and how many or which.
        self._watched = self._whole = False
        self._whole_texts: bool | None = None  # None: it does not generate
        self._alike: bool | None = None
        self._listed: torch.Tensor | None = None
        self._compact: tuple[int | torch.Tensor | None] | None = None

    @property
    def mode(self) -> Mode:
        """When to answer from the index: "auto", "lss" or "dense"."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in get_args(Mode):
            raise ValueError(message("mode", "'auto', 'lss' or 'dense'", repr(mode)))
        self._mode = mode

    @property
    def path(self) -> Path | None:
        """Where answers come from, as for :meth:`from_linear`."""
        return self._path

    @path.setter
    def path(self, path: Path | None) -> None:
        if path not in (None, *get_args(Path)):
            raise ValueError(message("path", f"{PATHS}, or None", repr(path)))
        self._path = path

    @property
    def index(self) -> Index | None:
        """The index, if there is one."""
        return self._index

    def attach(self, index: Index) -> Self:
        """Answer from an index from now on.

        Parameters
        ----------
        index : Index
            Fitted, over the layer's rows.

        Returns
        -------
        LSSLinear
            The layer itself.

        Raises
        ------
        NotFittedError
            If the index is not fitted.
        TypeError, ValueError
            If it is no index, or of another shape.

        Warns
        -----
        StaleIndexWarning
            If its rows or biases are not the layer's, up to rounding.
        """
        if not isinstance(index, Index):
            raise TypeError(message("index", "an Index", f"a {type(index).__name__}"))
        shape = (self.out_features, self.in_features)
        if (index.m, index.d) != shape:
            raise ValueError(message("index", f"of {shape[0]} rows of {shape[1]}", f"{index.m} of {index.d}"))
        _ = index.operating_point  # raises where nothing is fitted
        self._index, self._checked, self._scorers = index, None, None
        self._usable()
        return self

    def detach_index(self) -> Index | None:
        """Be a plain ``nn.Linear`` again; returns the index."""
        index, self._index, self._scorers = self._index, None, None
        return index

    # Whether the index is that of these weights

    def _key(self) -> tuple[Any, ...]:
        """Change whenever a parameter is written to or moved: a fingerprint that costs nothing.

        What writes through ``.data`` or a numpy view goes past it; :meth:`check` looks at all of it.
        """
        return tuple(
            (p.data_ptr(), None if p.is_inference() else p._version, p.dtype, p.device)
            for p in (self.weight, self.bias)
            if p is not None
        )

    def check(self) -> bool:
        """Compare all weights with the index's rows; returns whether the index is used.

        Done by itself when an index is attached, a layer is loaded, or parameters were written to or moved.

        Warns
        -----
        StaleIndexWarning
            If they differ by anything but roundings to half precision that either went through.
        """
        self._checked = None
        return self._usable()

    def _usable(self) -> bool:
        index = self._index
        if index is None or self.weight.is_meta:
            return False
        key = self._key()
        if key != self._checked:
            self._checked, self._sound = key, self._same(index)
            if not self._sound:
                warnings.warn(
                    "The weights are not those that the index was made from: the full layer answers. Make an "
                    "index of these weights, or detach this one.",
                    StaleIndexWarning,
                    stacklevel=3,
                )
        return self._sound

    def _same(self, index: Index) -> bool:
        """Whether the weights are the index's rows, but for roundings that they or it went through.

        The same roundings everywhere: a change of one unit in the last place is found.
        """
        ways: Iterable[Roundings] = ROUNDINGS
        stored = DTYPES[index.dtype]
        bias = torch.from_numpy(index._core.bias)
        if self.bias is not None:
            ways = roundings(self.bias.detach(), bias, torch.float32, ways)
        elif bias.any():
            return False
        weight = self.weight.detach()
        for lo in range(0, index.m, _BLOCK):
            part = weight[lo : lo + _BLOCK]
            ways = roundings(part, torch.from_numpy(index._core.rows(lo, len(part))), stored, ways)
            if not ways:
                return False
        return True

    def __getstate__(self) -> dict[str, Any]:
        # Addresses and tensors of a scorer mean nothing in a copy.
        passing = dict.fromkeys(("_checked", "_scorers", "_listed", "_compact", "_whole_texts"))
        return {**self.__dict__, **passing, "_whole": False}

    # Answering

    def _answers(self, n: int) -> bool:
        """Whether the index answers for a position of n sequences each, gradients aside."""
        if self._mode == "dense" or (self._mode == "auto" and (self.training or n > self.max_positions)):
            return False
        return self._spares()

    def _spares(self) -> bool:
        """Whether there is an index that is not stale, and scores less than all rows."""
        return self._usable() and self._index is not None and not self._index.operating_point.exact

    @contextmanager
    def _listing(self, k: int | torch.Tensor | None) -> Iterator[None]:
        """Give a decoder the k best logits of the last position, those of all candidates, or of labels (c,).

        While it lasts, they are in single precision, and ``_listed`` says whose they are.
        """
        self._compact = (k,)
        try:
            yield
        finally:
            self._compact = self._listed = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Parameters
        ----------
        x : Tensor of float, shape (..., in_features)

        Returns
        -------
        Tensor of the same dtype, shape (..., out_features)
            From an index, -inf outside its candidates: a softmax over it is renormalised over these, and a
            perplexity needs mode "dense". A query without candidates gets all logits. Under autocast, of its
            dtype.
        """
        whole = self._whole or self._whole_texts
        if self._compact is None and (whole or self._dense_for(x)):
            self._listed = None
            return super().forward(x)
        if torch.compiler.is_compiling():  # what looks at an index is no graph: there is a break in it
            return torch.compiler.disable(self._from_index)(x)
        return self._from_index(x)

    def _dense_for(self, x: torch.Tensor) -> bool:
        if self._index is None or self._mode == "dense":
            return True
        if self._mode == "lss":
            return False
        parameters = (x, self.weight, self.bias)
        needs_grad = torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in parameters)
        several = x.dim() > 2 and x.shape[-2] > 1
        positions = math.prod(x.shape[:-1])
        return self.training or needs_grad or several or positions > self.max_positions

    def _from_index(self, x: torch.Tensor) -> torch.Tensor:
        if self._compact is None and not self._spares():
            self._listed = None
            return super().forward(x)
        with torch.no_grad():
            if self._compact is not None:
                return self._few(x[..., -1:, :])
            queries = x.reshape(-1, self.in_features)
            scorer = self._scores(best=False)
            labels, logits, none = scorer._candidates(queries)
            dtype = _dtype_of_products(x)
            out = torch.full((len(queries), self.out_features), -torch.inf, dtype=dtype, device=x.device)
            _scatter(out, labels.to(x.device), logits.to(out))
            if self._any(none, scorer):
                rows = none.to(x.device)
                out[rows] = super().forward(queries[rows]).to(dtype)
                if self._watched:  # these have a list of all
                    labels = _with_all(labels, none, self.out_features)
            self._listed = labels if self._watched else None
            return out.reshape(*x.shape[:-1], self.out_features)

    def _few(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (..., 1, c) of the labels that ``_listed`` names, for a decoder that scatters nothing."""
        assert self._compact is not None
        (k,) = self._compact
        queries = x.reshape(-1, self.in_features)
        if isinstance(k, torch.Tensor):
            self._listed = k.expand(len(queries), -1)
            return super().forward(x).float()[..., k]
        scorer = self._scores(best=False)
        if k is None:
            labels, logits, none = scorer._candidates(queries)
        else:
            logits, labels, none = scorer._topk(queries, k)
        if self._any(none, scorer):  # as rare as it is slow
            every = torch.arange(self.out_features, device=labels.device).expand(len(queries), -1)
            labels, logits = every, super().forward(queries).float()
        self._listed = labels.to(x.device)
        return logits.to(x.device).reshape(*x.shape[:-1], -1)

    def topk(self, x: torch.Tensor, k: int) -> Any:
        """Find the k best labels of each position, in torch's order of answers.

        Parameters
        ----------
        x : Tensor of float, shape (..., in_features)
        k : int
            At most ``out_features``.

        Returns
        -------
        (values, indices)
            As ``torch.topk`` of the dense layer's output returns them, (..., k): logits in the dtype of x,
            best first, and int64 labels; under autocast, in its dtype. A position for which the index finds
            fewer than k labels is answered by the full layer, as is everything in mode "dense", in training,
            and with an exact index.

        Raises
        ------
        TypeError, ValueError
            As :meth:`Scorer.topk`, and if k is larger than ``out_features``.
        """
        k = as_count(k, "k")
        if k > self.out_features:
            raise ValueError(message("k", f"at most {self.out_features}, the labels there are", k))
        with torch.no_grad():
            queries = x.detach().reshape(-1, self.in_features)
            if self._mode == "dense" or (self._mode == "auto" and self.training) or not self._spares():
                values, labels = self._full_topk(queries, k)
            else:
                scorer = self._scores(best=True)
                values, labels, none = (part.to(x.device) for part in scorer._topk(queries, k))
                values = values.to(_dtype_of_products(x))
                short = none | (labels[:, -1] < 0)
                if self._any(short, scorer):
                    values[short], labels[short] = self._full_topk(queries[short], k)
        shape = *x.shape[:-1], k
        return torch.return_types.topk((values.reshape(shape), labels.reshape(shape)))

    @staticmethod
    def _any(short: torch.Tensor, scorer: Scorer) -> bool:
        """Whether some need the full layer: none does after a scan, and to ask is to wait for the device."""
        return scorer.path != "scan" and bool(short.any())

    def _full_topk(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = _dtype_of_products(queries)
        values = torch.empty((len(queries), k), dtype=dtype, device=queries.device)
        labels = torch.empty((len(queries), k), dtype=torch.int64, device=queries.device)
        step = max(1, CHUNK_BYTES // (4 * self.out_features))
        for lo in range(0, len(queries), step):
            part = slice(lo, lo + step)
            values[part], labels[part] = super().forward(queries[part]).topk(k, dim=1)
        return values, labels

    def _scores(self, best: bool) -> Scorer:
        """Make a scorer of the present weights and index, or keep the one that there is.

        For the best labels on the CPU, the index answers as ever. Where logits are chosen among, its sketches
        leave out less than its tables; and a text goes on from its first other token, however rare one is.
        """
        index = self._index
        assert index is not None
        always = frozenset((*self.always, *self._called, *index.config.always_include))
        key = (self._key(), index._core.fits, index.operating_point.n_scan, self.n_candidates)
        if self._scorers is None or self._scorers[0] != key:
            self._scorers = key, {}
        if self._path is not None:
            path = self._path
        elif self.weight.device.type != "cpu":
            path = "scan" if index.params["sketch_bytes"] else "tables"
        else:
            path = "core" if best or not _scans(index) else "core-scan"
        scorers = self._scorers[1]
        if path not in scorers:
            dtype = self.weight.dtype if self.weight.dtype in DTYPES.values() else torch.float32
            scorers[path] = Scorer(
                index,
                self.weight,
                dtype=dtype,
                b=self.bias,
                path=path,
                n_candidates=self.n_candidates,
            )
        scorers[path]._include(always)
        return scorers[path]

    def extra_repr(self) -> str:
        """Return what ``nn.Linear`` says of itself, the mode, and whether there is an index."""
        return f"{super().extra_repr()}, mode={self._mode!r}, index={self._index!r}"


def _with_all(labels: torch.Tensor, rows: torch.Tensor, m: int) -> torch.Tensor:
    """List all of m labels in these rows; -1 is no label."""
    out = labels.new_full((len(labels), m), -1)
    out[:, : labels.shape[1]] = labels
    out[rows] = torch.arange(m, device=labels.device)
    return out


def _dtype_of_products(x: torch.Tensor) -> torch.dtype:
    """Return the dtype that a linear layer gives: that of x, or of autocast where it is on."""
    kind = x.device.type
    if x.dtype is not torch.float64 and torch.is_autocast_enabled(kind):
        dtype: torch.dtype = torch.get_autocast_dtype(kind)
        return dtype
    return x.dtype


def _scatter(out: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> None:
    """Write logits (n, c) at their labels into ``out`` (n, m), which is -inf so far; label -1 is none."""
    if labels.shape[1]:
        # What is no label is -inf: written anywhere, it must not come after one that is.
        spare = torch.where(labels < 0, labels.new_zeros(()), labels)
        out.scatter_reduce_(1, spare, logits, "amax", include_self=True)
