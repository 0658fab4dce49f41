"""An app that would also be an agent."""
