"""Face encoders: backbones, dropout views, and the encoder that is saved and used."""
