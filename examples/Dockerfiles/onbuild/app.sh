#!/bin/sh
echo "I am $(cat /app/name)"
