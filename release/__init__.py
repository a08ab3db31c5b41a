"""Model card, Hub push, chat, report."""
