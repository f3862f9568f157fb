"""RL Zoo's enjoy command with sb3_pg's algorithms, for installations whose .pth files Python does not read.

``python -m sb3_pg.enjoy`` takes the arguments of ``python -m rl_zoo3.enjoy`` and does the same. Only this command knows
our algorithms after ``pip install --target``, with ``python -S`` and with ``SB3_PG_ZOO=0``.
"""

from sb3_pg.zoo.extend import extend_all


def main() -> None:
    """Extend rl_zoo3, then run its enjoy command on the arguments of this process."""
    extend_all()
    # After extend_all, so that importing this module does not import rl_zoo3.
    from rl_zoo3.enjoy import enjoy

    enjoy()


if __name__ == "__main__":
    main()
