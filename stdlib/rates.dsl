"""Values over time: learning rates and loss weights. The compiler supplies step and steps (run-time scalars); the rest is given at the call."""


@curve
def constant(step: f32, steps: f32, peak: f32, *, warmup: f32 = 0.0):
    return peak * minimum((step + 1.0) / (warmup + 1.0), 1.0)


@curve
def cosine(step: f32, steps: f32, peak: f32, *, warmup: f32 = 0.0, floor: f32 = 0.0):
    """A straight line up to `peak`, then half a cosine that reaches `floor` when all steps are done."""
    rise = peak * (step + 1.0) / (warmup + 1.0)
    share = minimum((step - warmup) / maximum(steps - warmup, 1.0), 1.0)
    fall = floor + 0.5 * (peak - floor) * (1.0 + cos(pi * share))
    return select(step < warmup, rise, fall)


@curve
def ramp(step: f32, steps: f32, target: f32, *, over: f32):
    """From 0 to `target` in `over` steps, then constant."""
    return target * minimum(step / over, 1.0)


@curve
def linear(step: f32, steps: f32, peak: f32, *, warmup: f32 = 0.0, floor: f32 = 0.0):
    """A straight line up to `peak`, then one down to `floor` at the last step."""
    rise = peak * (step + 1.0) / (warmup + 1.0)
    share = minimum((step - warmup) / maximum(steps - 1.0 - warmup, 1.0), 1.0)
    return select(step < warmup, rise, peak + (floor - peak) * share)


@curve
def wsd(step: f32, steps: f32, peak: f32, *, warmup: f32 = 0.0, decay: f32 = 0.2, floor: f32 = 0.0):
    """Warmup (a line up to `peak`), stable, decay (over the last share `decay` of the steps, to `floor` when all are done)."""
    rise = peak * (step + 1.0) / (warmup + 1.0)
    share = minimum((steps - step) / maximum(decay * steps, 1.0), 1.0)
    return select(step < warmup, rise, floor + (peak - floor) * share)
