"""What gives way so that a run fits: layers computed again, activations and weights on the host, layers on other devices."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

from burnish.plan.activations import is_fused, piece_tokens
from burnish.plan.decide import Decided
from burnish.plan.host import Host, check_offload, choose_offloaded, host_of, layer_seconds, tell_offloaded
from burnish.plan.memory import streamed
from burnish.plan.place import Counted, Placed, Placing, check_devices, handing_seconds, placed, tell_placed
from burnish.plan.recompute import Again, choose_again, peak_of
from burnish.plan.stream import choose_streamed, most_on_host, tell_streamed, with_streamed
from burnish.plan.time import rates


def give_way(run: Decided, components: Counted, because: dict[str, str]) -> tuple[Again, dict[str, int]]:
    """Return what gives way, and the components of the peak, of several devices those of the fullest. Says why."""
    devices = check_devices(run.recipe, run.device, run.hardware)
    fused = is_fused(run.architecture, run.method)
    host = host_of(run.hardware, rates(run.hardware, run.device), fused=fused)
    if devices > 1:
        again, found = _on_devices(run, components, devices, host, because)
    else:
        again = _choose(run, components, host, because)
        found = components(again.whole, again.feed_forward, again.offloaded, again.streamed)
    pieces = piece_tokens(run.architecture, run.method, run.device, run.work) if again.layers else None
    return replace(again, piece_tokens=pieces), found


def _choose(run: Decided, components: Counted, host: Host, because: dict[str, str], devices: int = 1) -> Again:
    """Return what gives way. components: of the device, or of the fullest of several."""
    architecture, method, work, limit, train = (
        run.architecture, run.method, run.work, run.limit_bytes, run.recipe.train,
    )  # fmt: skip
    check_offload(run.recipe, run.device)

    def given(count: int) -> Again:
        if run.device == "cpu":
            return choose_again(architecture, method, work, lambda whole, halves: components(whole, halves, 0), limit)
        left = host.without(streamed(architecture, method, run.dtype, count).pinned)
        fixed = partial(components, streamed=count)
        return choose_offloaded(architecture, method, work, fixed, limit, left, run.dtype, train.activation_offload)

    def peak(count: int) -> int:
        again = given(count)
        return peak_of(components, again.whole, again.feed_forward, again.offloaded, count)

    most = most_on_host(architecture, method, run.dtype, host)
    count = choose_streamed(run.recipe, architecture, method, run.device, most=most, peak=peak, limit=limit)
    again = given(count)
    if again.offloaded:
        because["train.offloaded_layers"] = tell_offloaded(again, host)
    if not count:
        return again
    gone, seconds = streamed(architecture, method, run.dtype, count), layer_seconds(architecture, work, host)
    again = with_streamed(architecture, again, gone, host, seconds, devices=devices)
    why = tell_streamed(architecture, again, gone, host, seconds, asked=train.streamed_layers != "auto")
    because["train.streamed_layers"] = why
    return again


def _on_devices(
    run: Decided, components: Counted, devices: int, host: Host, because: dict[str, str]
) -> tuple[Again, dict[str, int]]:
    train = run.recipe.train
    what = Placing(
        run.architecture, run.method, run.dtype, components, devices, train.optimizer, train.optimizer_in_backward
    )

    @cache
    def spread(whole: int, halves: int, offloaded: int, streamed: int = 0) -> Placed:
        return placed(what, whole, halves, offloaded, streamed)

    def fullest(whole: int, halves: int, offloaded: int, streamed: int = 0) -> dict[str, int]:
        return spread(whole, halves, offloaded, streamed).fullest

    again = _choose(run, fullest, host, because, devices)
    found = spread(again.whole, again.feed_forward, again.offloaded, again.streamed)
    seconds = handing_seconds(run.architecture, run.dtype, run.work, devices, host.bytes_per_second)
    because["train.layers_by_device"] = tell_placed(found, seconds, host.bytes_per_second)
    waited = again.exposed_seconds + seconds
    return replace(again, exposed_seconds=waited, layers_by_device=found.layers, peaks=found.peaks), found.fullest
