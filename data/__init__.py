"""Sources to tokens to mixture, on datatrove."""
