"""Post-training with Axolotl: ChatML, SFT, DPO."""
