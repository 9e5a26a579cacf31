# flexiast that listens: the base install, without torch, for x86-64 and arm64 (every wheel that it needs exists for both).
#
#   docker build -t flexiast .
#   docker run --rm --device /dev/snd -v flexiast:/data flexiast doctor --record 2
#   docker run -d --restart unless-stopped --device /dev/snd -v flexiast:/data flexiast

FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY requirements/base.txt requirements/base.txt
COPY flexiast flexiast
COPY export export
COPY runtime runtime
COPY cli cli
# The locked, hashed list first: an image of today and one of next year hold the same bytes.
RUN python -m venv /opt/flexiast \
    && /opt/flexiast/bin/pip install --no-cache-dir --require-hashes --requirement requirements/base.txt \
    && /opt/flexiast/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libportaudio2 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/flexiast /opt/flexiast
# The group audio has number 29 on Debian and Raspberry Pi OS; where the host's is another, add --group-add NUMBER.
RUN useradd --system --groups audio --home-dir /data --create-home flexiast
USER flexiast
WORKDIR /data
VOLUME /data
ENV PATH=/opt/flexiast/bin:$PATH
# 20 minutes of listening cost more than this; a microphone that is in use is no failure.
HEALTHCHECK --interval=20m --timeout=60s --start-period=60s CMD ["flexiast", "doctor"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["flexiast"]
CMD ["listen"]
