"""Where records go: files, a database, MQTT, webhooks, commands, clips of the audio, metrics."""
