"""Requests of smart contracts: watched for, run as jobs, answered on chain.

A process of its own (`privacy chain watch`), and a client of a gateway: the gateway
itself knows nothing of chains.
"""
