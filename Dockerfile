# The runtime alone, for `docker run --rm -v "$PWD:/pictures" lqc compress photo.png`.
# Written without a Docker to try it with: it has not been built yet.
FROM python:3.12-slim

WORKDIR /sources
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY codec codec
COPY cli cli
COPY models models
RUN pip install --no-cache-dir . && rm -rf /sources

# Not root: files that are written belong to whom --user names, and a hole in a decoder of pictures has nothing to take.
RUN useradd --create-home codec
USER codec
WORKDIR /pictures
ENTRYPOINT ["codec"]
CMD ["--help"]
