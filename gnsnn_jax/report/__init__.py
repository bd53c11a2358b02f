"""Tables, pictures and documents of converted networks."""
