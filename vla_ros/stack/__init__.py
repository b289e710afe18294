"""The nodes of an arm as one thing that is started, watched and stopped."""
