"""Forward process towards a known noise vector (SimDiffRec Eq. 8-9).

The noise of an item is deterministic, so z_t stays a linear mix of the clean embedding and the noise.
"""

from recbole_diffusion.diffusion.forward import ForwardProcess
from recbole_diffusion.diffusion.schedules import alpha_bars, linear_betas, zero_terminal_snr


class GuidedNoiseProcess(ForwardProcess):
    """Closed form of Eq. 9. Time steps are 0..T-1.

    Args:
        steps (int): T.
        beta_start, beta_end (float): ends of the linear schedule.
        param (str): ``vp`` mixes with ``sqrt(alpha_bar)`` and ``sqrt(1 - alpha_bar)`` after rescaling to zero
            terminal SNR; ``convex`` is the literal Eq. 8 with a = 1 - beta and b = beta, whose factors sum to 1.
            (Eq. 8 with square roots would add the same vector 1000 times and explode.)

    Raises:
        ValueError: for an unknown ``param`` or an impossible schedule.
    """

    def __init__(self, steps: int, beta_start: float, beta_end: float, param: str) -> None:
        alpha_bar = alpha_bars(linear_betas(steps, beta_start, beta_end))
        if param == "vp":
            alpha_bar = zero_terminal_snr(alpha_bar)
            signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        elif param == "convex":
            signal, noise = alpha_bar, 1 - alpha_bar
        else:
            raise ValueError(f"noise_param must be 'vp' or 'convex', got '{param}'")
        super().__init__(signal, noise)
