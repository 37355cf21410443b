"""The training loop: set up, fit, validate, keep. One loop, visible in one file, on Lightning Fabric.

Everything random in a step is a function of (seed, step): the order of the images, their augmentation and the noise of attention
and latent. A resumed run therefore needs no generator state, and continues bit for bit on the CPU. Several processes share every
batch (`aib.train.shares`), validate a share each, and end together (`aib.train.watch`).
"""

from __future__ import annotations

import math
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aib.classifier import AttentiveClassifier, Classifier, Details
from aib.data.augment import alternate_flips, normalize, random_crop
from aib.data.bundle import DataBundle, batch_indices, epoch_order
from aib.loss import objective
from aib.train.agreement import Agreement
from aib.train.checkpoint import link, save_checkpoint
from aib.train.checks import check_apart, check_augmentation, check_first_pass, check_validation, collapse_warnings, finite_weights
from aib.train.config import TrainConfig, with_machine
from aib.train.device import wants_channels_last
from aib.train.fabric import ForwardDetails, compiled_forward, meet
from aib.train.optim import build_optimizer, lr_factor, warmed_share
from aib.train.origin import keep_origin
from aib.train.predict import predict, summarize
from aib.train.processes import read_world
from aib.train.progress import TrainingDisplay, epoch_line
from aib.train.restoring import Position, load_optimizer, load_precision, load_weights, read_position, read_saved, read_sums
from aib.train.revival import revive_anchors
from aib.train.run_data import open_training_data, reopen_training_data
from aib.train.run_folder import RunFolder, default_name, environment
from aib.train.running import RunningMeans
from aib.train.seeds import mixed_seed
from aib.train.shares import Sharing
from aib.train.start import describe, start_network
from aib.train.stopping import Interrupted, StopRequest
from aib.train.watch import Watch
from aib.train.weights import load_best, save_weights, selected_epoch

__all__ = ["DivergedError", "Interrupted", "train"]

SYNC_SECONDS = 0.5
"""How often the running means are fetched from the device for the display and the divergence check."""

SKIPPED_SHOWN = 20
"""Files left out that are listed on the screen."""


class DivergedError(ValueError):
    """The loss became infinite or not a number."""


def train(
    config: TrainConfig, *, resume: Path | None = None, bundle: DataBundle | None = None, title: str = "training"
) -> RunFolder:
    """Train a classifier and leave a run folder.

    Args:
        config: the whole run; when resuming, the folder's own configuration counts, but for the machine's options
            (`aib.train.config.MACHINE`) and where the data are (`aib.train.config.PLACE`).
        resume: an interrupted run's folder.
        bundle: the data, where the caller has it open already.
        title: name shown before the progress bar.

    Raises:
        ValueError: bad input of any kind, in one line.
        DivergedError: the loss left the numbers; the last good checkpoint is kept.
        Interrupted: Ctrl-C, SIGTERM or a closed terminal; the run is saved.
        ConnectionError: another process of the run is gone.
    """
    world, devices = read_world(os.environ), config.run.devices  # those given now: a launcher need not start as many as last time
    first = world.rank == 0
    if resume is not None:
        folder = RunFolder.open(resume)
        config = with_machine(folder.config, config)
    else:
        folder = RunFolder(Path(config.run.out or f"runs/{default_name(config)}"))
        if first:
            folder.check_free()
        if first and bundle is None:
            check_apart(folder.path, config.data.data)
    world, fabric = meet(config, devices, world)
    with Watch(world, fabric.broadcast, (Interrupted, DivergedError), folder.advice), ExitStack() as held:
        state = None
        if resume is not None:
            if first:
                held.enter_context(folder.locked())
                folder.remove_leftovers()
            state = read_saved(folder, mend=first)
        if bundle is None:
            bundle = open_training_data(config.data) if resume is None else reopen_training_data(folder, config.data)
        model = start_network(config, bundle, resumed=state is not None)
        if resume is None:
            check_augmentation(config.data, bundle)
            check_validation(config, bundle)
            check_first_pass(model, bundle)
            if first:
                folder.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(folder.locked())  # before the configuration: of two that start at once, one writes it
                folder.create(config)
                keep_origin(folder, bundle)
        if first and not folder.has("environment.json"):
            folder.write_json("environment.json", environment(str(fabric.device), config.run.precision, world.size))
        card = describe(config, bundle, model)
        with folder.advising():
            return _Fit(config, folder, fabric, model, bundle, card, state, title).run()


class _Fit:
    """One run from its state to its end; `train` is the entry."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        fabric: Any,
        model: Classifier,
        bundle: DataBundle,
        card: dict[str, Any],
        saved: dict[str, Any] | None,
        title: str,
    ) -> None:
        self.config, self.folder, self.fabric, self.card, self.title = config, folder, fabric, card, title
        device = self.device = fabric.device
        self.bundle = bundle.to(device)
        self.world, self.rank = fabric.world_size, fabric.global_rank
        length, batch = len(bundle.train), min(config.optim.batch_size, len(bundle.train))
        self.per_epoch = len(batch_indices(torch.arange(length), config.optim.batch_size, drop_last=True))
        self.state, sums = Position(), None
        if saved is not None:
            load_weights(model, saved["model"], folder.last)
            state = self.state = read_position(saved["state"], folder.last)
            if state.step != state.epoch * self.per_epoch + state.batch or state.batch > self.per_epoch:
                raise ValueError(f"{folder.path} was trained on another number of images; put the data back, or start a new run")
            sums = read_sums(saved["running"], state.batch * batch, folder.last)
        self.model = model.to(device)
        if wants_channels_last(config.run.channels_last, device.type):
            self.model = self.model.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(self.model, config.optim, device)
        if saved is not None:
            load_optimizer(optimizer, saved["optimizer"], folder.last)
        self.running = RunningMeans(device, sums if self.rank == 0 else None)
        shape = (bundle.channels, *bundle.image_size)
        self.sharing = Sharing(self.world, self.rank, config.run.accumulate or 1, batch, self.model, shape)
        forward = None
        if config.run.compile:
            mixed = {} if config.run.precision == "32-true" else {"autocast": fabric.autocast}
            forward = compiled_forward(self.model.train(), shape, self.sharing.passes(), config.run.compile_mode, **mixed)
        self.wrapped, self.optimizer = fabric.setup(ForwardDetails(self.model, forward), optimizer)
        if saved is not None:
            load_precision(fabric.strategy.precision, saved.get("precision", {}), folder.last)
        self.agreement = Agreement(self.world, device, self._sum, self.state.step)
        self.val = self.sharing.of_validation(self.bundle.val)
        self.flip = bundle.mirror if config.data.flip is None else config.data.flip
        self.saved_at = self.synced_at = time.monotonic()
        self.anchors: dict[str, float] = {}  # in use at the last validation, for the bar

    def run(self) -> RunFolder:
        optim, state = self.config.optim, self.state
        if self.rank == 0:
            self.folder.truncate_metrics(state.epoch)
            if state.batch == 0 and state.best_epoch == state.epoch > 0:  # killed between the two names of a checkpoint
                link(self.folder.last, self.folder.best)
            self._reselect()
        if state.epoch >= optim.epochs:
            raise ValueError(f"{self.folder.path} has finished its {optim.epochs} epochs; there is nothing to resume")
        with (
            TrainingDisplay(
                optim.epochs * self.per_epoch, state.step, title=self.title, quiet=self.config.run.quiet or self.rank > 0
            ) as self.display,
            StopRequest(self.display.line, echo=2.0 if self.world > 1 else 0.0) as self.stop,
        ):
            self._tell_skipped()
            while state.epoch < optim.epochs:
                row = self._epoch()
                if self.rank == 0:
                    self.folder.append_metrics(row)
                self._keep(row)
                self.display.line(epoch_line(row, optim.epochs))
                for warning in row.get("warnings", ()):
                    self.display.line(f"warning: {warning}")
        return self.folder

    def _epoch(self) -> dict[str, Any]:
        """Train to the end of the current epoch and validate; the row of the log."""
        optim, state = self.config.optim, self.state
        began = time.monotonic() - state.seconds
        self._take_steps(began)
        trained = max(1e-3, time.monotonic() - began)  # a coarse clock may stand still
        self._check_finite()
        if self.world > 1:
            self.running.sums = self.running.total(self._sum)
            for buffer in self.model.buffers():  # the running statistics of the first process, which validates for all
                torch.distributed.broadcast(buffer, 0)
        numbers = self.running.means()
        val = self._validate()
        state.epoch += 1
        state.batch, state.seconds = 0, 0.0
        self.running = RunningMeans(self.device)
        row: dict[str, Any] = {
            "epoch": state.epoch,
            "step": state.step,
            "lr": optim.lr * lr_factor(state.step - 1, self.per_epoch, optim),
            "beta": optim.beta * warmed_share(state.step - 1, self.per_epoch, optim),
            "seconds": round(max(trained, time.monotonic() - began), 3),
            "images_per_second": round(self.per_epoch * self.sharing.batch / trained, 1),
            "train": numbers,
            "val": val,
        }
        warm = state.epoch >= optim.beta_warmup_epochs
        if warnings := collapse_warnings(val or numbers, self.model, warm=warm):
            row["warnings"] = warnings
        return row

    def _take_steps(self, began: float) -> None:
        """The steps that are left of the current epoch; ``began`` is when it did, by the monotonic clock."""
        config, state, bundle = self.config, self.state, self.bundle
        self.synced_at = time.monotonic()
        whole = batch_indices(epoch_order(len(bundle.train), config.run.seed, state.epoch), config.optim.batch_size, drop_last=True)
        batches = [positions[self.sharing.share] for positions in whole]  # of each batch, every process its share
        self.wrapped.train()
        in_turn = self.flip and config.data.alternate_flip
        flips = alternate_flips(len(bundle.train), mixed_seed(config.run.seed), state.epoch) if in_turn else None
        for batch in bundle.train.batches(batches[state.batch :], train=True, seed=mixed_seed(config.run.seed, state.epoch)):
            factor = lr_factor(state.step, self.per_epoch, config.optim)
            for group in self.optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            torch.manual_seed(mixed_seed(config.run.seed, state.step, 1))
            flip = self.flip if flips is None else flips[batch.positions]
            parts, errors = self._step(batch.images, batch.labels, warmed_share(state.step, self.per_epoch, config.optim), flip)
            self.running.add(parts, errors, len(batch.labels), state.step)
            state.step += 1
            state.batch += 1
            self._after_step(began)

    def _after_step(self, began: float) -> None:
        """What is due between two steps: telling the numbers, checking them, saving, stopping.

        Raises:
            Interrupted: a stop was asked for; the run is saved.
            DivergedError: a loss or a weight is not a finite number.
        """
        config, state, now = self.config, self.state, time.monotonic()
        if now - self.synced_at >= SYNC_SECONDS or state.batch == self.per_epoch:
            self.synced_at = now
            if self.world == 1:  # several processes check where they agree, or one would leave the others waiting
                self._check_finite()
            speed = state.batch * self.sharing.batch / max(1e-9, now - began)
            self.display.step(state.step, {**self.running.means(), **self.anchors, "images_per_second": speed})
        if self.agreement.is_due(state.step):
            self._check_finite()
        late = now - self.saved_at > 60 * config.run.checkpoint_minutes
        stopping, due = self.agreement.wishes(state.step, self.stop.asked, late)
        if stopping or due:
            self._check_finite()
            self._check_weights()
            state.seconds = max(0.0, now - began)
            self._save()
        if stopping:
            done = f"{state.step} of {config.optim.epochs * self.per_epoch} steps"
            raise Interrupted(f"stopped after {done}, saved; go on with: aib train --resume {self.folder.path}")

    def _validate(self) -> dict[str, float]:
        """The numbers on validation, after which unused anchors move where that is asked for; none without validation images.

        Raises:
            DivergedError: one of them, or a weight, is not finite.
        """
        bundle = self.bundle
        if not len(bundle.val):
            self._check_weights()
            return {}
        shared = predict(self.model, self.val, bundle.mean, bundle.std, device=self.device)
        predictions = self.sharing.gathered(shared, bundle.val.labels, self.model, self._sum)
        val = summarize(predictions)
        self.anchors = {name: val[name] for name in ("anchors_used",) if name in val}
        if strange := [name for name, value in val.items() if not math.isfinite(value)]:
            raise self._diverged(f"{strange[0].replace('_', ' ')} on validation", self.state.step)
        self._check_weights()
        if self.config.optim.revive_anchors and predictions.usage is not None and isinstance(self.model, AttentiveClassifier):
            assert self.model.quantizer is not None  # there is no usage without it
            revive_anchors(self.model.quantizer, predictions.usage.counts, self.optimizer)
        return val

    def _step(self, images: Tensor, labels: Tensor, share: float, flip: bool | Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step on uint8 ``images`` with a share of beta; the loss parts and the number of errors, on the device."""
        optim, bundle = self.config.optim, self.bundle
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        images = random_crop(images, self.config.data.crop_padding, flip=flip, among=self.sharing.among)
        noise = self.sharing.noise()
        if self.world > 1:  # what the network itself draws, such as dropout, is each process's own
            torch.manual_seed(mixed_seed(self.config.run.seed, self.state.step, 2 + self.rank))
        self.optimizer.zero_grad(set_to_none=True)
        done = []
        for cut, weight in (cuts := self.sharing.parts(len(labels))):
            inputs = normalize(images[cut], bundle.mean, bundle.std)
            given = () if noise is None else (noise.of(cut),)
            with self.fabric.no_backward_sync(self.wrapped, enabled=self.world > 1 and cut is not cuts[-1][0]):
                details = Details(**self.wrapped(inputs, *given))
                parts = objective(
                    details, labels[cut], share * optim.beta, lambda_anchor=optim.lambda_anchor,
                    lambda_commitment=optim.lambda_commitment, lambda_sparsity=share * optim.lambda_sparsity, kl=optim.kl,
                    label_smoothing=optim.label_smoothing,
                )  # fmt: skip
                self.fabric.backward(parts["loss"] * weight if self.sharing.cut else parts["loss"])
            done.append((parts, (details.logits.detach().argmax(1) != labels[cut]).sum(), len(inputs) / len(labels)))
        if optim.clip_norm is not None:
            # a norm that is no number shows in the weights and ends the run there: asking for it here would wait for the device
            self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=optim.clip_norm, error_if_nonfinite=False)
        self.optimizer.step()
        if len(done) == 1:
            return done[0][:2]
        means = {name: torch.stack([part[name].detach() * weight for part, _, weight in done]).sum() for name in done[0][0]}
        return means, torch.stack([errors for _, errors, _ in done]).sum()

    def _check_finite(self) -> None:
        """Stop on a diverged loss.

        Raises:
            DivergedError: a loss of this epoch was infinite or not a number.
        """
        step = self.running.bad_step()
        if self.world > 1:
            worst = self.fabric.all_reduce(torch.tensor(-1 if step is None else step, device=self.device), reduce_op="max")
            step = int(worst) if worst >= 0 else None
        if step is not None:
            raise self._diverged("the loss", step + 1)

    def _check_weights(self) -> None:
        """As `_check_finite` before weights are kept: a finite loss does not mean that the step after it ended well."""
        finite = finite_weights(self.model)
        if self.world > 1:  # the statistics of normalisation layers are each process's own
            finite = bool(self.fabric.all_reduce(torch.tensor(int(finite), device=self.device), reduce_op="min"))
        if not finite:
            raise self._diverged("a weight", self.state.step)

    def _diverged(self, what: str, step: int) -> DivergedError:
        last = self.folder.last
        kept = f"the last good checkpoint is kept in {last}" if last.exists() else "there is no checkpoint yet"
        return DivergedError(f"{what} is not a finite number at step {step}; {kept}; try a lower --lr or --clip-norm 1")

    def _keep(self, row: dict[str, Any]) -> None:
        """Write the checkpoint of a finished epoch, and the weights when they are the best on validation, or there is none."""
        state, val = self.state, row["val"]
        reached = (val["error"], val["cross_entropy"]) if val else (math.inf, math.inf)
        better = not val or reached < (state.best_error, state.best_cross_entropy)
        if better:
            (state.best_error, state.best_cross_entropy), state.best_epoch = reached, state.epoch
            # before the checkpoint that says so: killed in between, the epoch is repeated and writes them again
            if self.rank == 0:
                save_weights(self.folder, self.model, {**self.card, "epoch": state.epoch, "val_error": val.get("error")})
        self._save()
        if better and self.rank == 0:
            link(self.folder.last, self.folder.best)

    def _reselect(self) -> None:
        """Bring the selected weights back to the epoch that was the best at the checkpoint; a kill may have left a later one's.

        Where no sound file has that epoch any more, as after putting an older checkpoint in the last one's place, none was.
        """
        state = self.state
        if state.best_epoch in (0, selected_epoch(self.folder)):
            return
        if (chosen := load_best(self.folder, self.model, state.best_epoch)) is not None:
            error = state.best_error if math.isfinite(state.best_error) else None  # without validation images
            save_weights(self.folder, chosen, {**self.card, "epoch": state.best_epoch, "val_error": error})
        else:
            state.best_error, state.best_cross_entropy, state.best_epoch = math.inf, math.inf, 0

    def _save(self) -> None:
        """Write the checkpoint; every process comes here, the first one writes."""
        sums = self.running.sums if self.world == 1 or not self.state.batch else self.running.total(self._sum)
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": vars(self.state),
            "running": {name: value.cpu() for name, value in sums.items()},
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        if self.rank == 0:
            save_checkpoint(self.folder.last, content)
        self.saved_at = time.monotonic()

    def _sum(self, value: Tensor) -> Tensor:
        return self.fabric.all_reduce(value, reduce_op="sum")

    def _tell_skipped(self) -> None:
        """Count the files left out by ``skip_bad`` and list them: all in the run folder, some here."""
        if (skipped := self.bundle.skipped) and self.rank == 0:
            self.folder.write_text("skipped.txt", "".join(f"{line}\n" for line in skipped))
            self.display.line(f"left out {len(skipped)} files that cannot be read, listed in {self.folder.path / 'skipped.txt'}:")
            for line in skipped[:SKIPPED_SHOWN]:
                self.display.line(f"  {line}")
