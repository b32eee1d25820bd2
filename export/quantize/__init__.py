"""Sites, ports, scales, LET's algebra and the proof: what every family and every calibration is made of."""
