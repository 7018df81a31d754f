"""How dates are written, where a language's own way would leave a doubt."""
