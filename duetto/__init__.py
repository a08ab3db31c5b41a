"""What every stage shares: recipe, run folder, manifests, console, command line."""
