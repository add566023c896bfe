"""Published image models at full size: models with published configurations, measured by a blueprint."""
