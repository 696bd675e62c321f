"""What methods share: backbones, the vision transformer, prompts, class statistics, alignment, schedules."""
