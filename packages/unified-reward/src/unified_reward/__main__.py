"""``python -m unified_reward`` and ``accelerate launch -m unified_reward``."""

from unified_reward.cli import main


if __name__ == "__main__":
    main()
