"""The portal: what the provider's people and machines talk to, and where desired state is kept."""
