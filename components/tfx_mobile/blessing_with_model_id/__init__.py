"""BlessingWithModelId: ties a blessing to the id of its model, which TFX's resolver looks for."""
