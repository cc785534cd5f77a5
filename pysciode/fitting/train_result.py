"""When a training run ends, and what comes back from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import require_extra_package

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class EarlyStopping:
    """Stop once the validation loss no longer falls.

    Attributes
    ----------
    patience
        Validations in a row without a new lowest loss.
    min_delta
        By how much it must be lower to count.
    restore_best
        Whether the model is left with the parameters of the lowest validation loss, rather than with the last ones.
    """

    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True


@dataclass
class Training:
    """A training run, finished or not.

    Attributes
    ----------
    stopped
        Why it ended: all steps were done, the validation loss no longer fell, or Ctrl-C.
    steps, epochs
        Steps done, and passes through the data completed; those before a resumption included.
    seconds
        Wall time, that before a resumption included.
    best, best_step
        The lowest validation loss and the step after which it was found; None without validation.
    skipped
        Batches whose solve or gradient failed and that were passed over.
    resumed_at
        The step at which a checkpoint was taken up; 0 for a run from the start.
    rows
        The rows of `history`, one for each step.
    """

    stopped: Literal["finished", "early stopping", "interrupted"] = "finished"
    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    skipped: int = 0
    resumed_at: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def history(self) -> pd.DataFrame:
        """One row for each step.

        Columns ``step``, ``epoch``, ``loss`` (NaN where the batch was skipped), ``learning_rate`` and ``seconds`` since
        the start; where the model has blocks that count them ``nfe_forward`` and ``nfe_backward``; ``validation`` where
        it was computed after that step, NaN elsewhere; and what the loss returned beside its value.
        """
        import pandas as pd

        return pd.DataFrame(self.rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the losses over the steps and, on an axis of their own, evaluations of the dynamics.

        Parameters
        ----------
        ax
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes
        """
        require_extra_package("matplotlib", "Training.plot", "analysis")
        import matplotlib.pyplot as plt

        if ax is None:
            ax = plt.figure().add_subplot()
        history = self.history
        ax.plot(history["step"], history["loss"], label="loss", lw=1)
        if "validation" in history:
            seen = history.dropna(subset="validation")
            ax.plot(seen["step"], seen["validation"], label="validation", marker=".", lw=1)
        if (history["loss"].dropna() > 0).all():
            ax.set_yscale("log")
        ax.set(xlabel="step", ylabel="loss")
        handles, labels = ax.get_legend_handles_labels()
        if "nfe_forward" in history:
            counts = ax.twinx()
            for way, style in (("forward", "-"), ("backward", "--")):
                values, label = history[f"nfe_{way}"], f"evaluations {way}"
                counts.plot(history["step"], values, style, color="0.6", lw=0.8, label=label)
            counts.set_ylabel("evaluations of the dynamics")
            more = counts.get_legend_handles_labels()
            handles, labels = handles + more[0], labels + more[1]
        ax.legend(handles, labels)
        return ax
