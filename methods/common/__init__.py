"""What methods share: the prompted ViT, prefix attention, class statistics, alignment, schedules, backbones."""
