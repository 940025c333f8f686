module TestDocker

go 1.19
